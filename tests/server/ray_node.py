"""A Ray cluster of one node with Antiphon on it: ``python ray_node.py PORT``, run by the interpreter that has Ray.

Reads the application's arguments (JSON) from the first line of standard input, says ``ready`` when the front answers, and
ends everything at the end of its input.
"""

import json
import sys

import ray
from ray import serve

from antiphon.server.ray_serve import application


def main() -> None:
    order = json.loads(sys.stdin.readline())
    ray.init(
        num_cpus=order["num_cpus"],
        object_store_memory=100_000_000,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=order["folder"],
        runtime_env={"env_vars": order["environment"]},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, proxy_location="HeadOnly")
        serve.run(application(order["arguments"]), name="antiphon", blocking=False)
        print("ready", flush=True)  # noqa: T201 - said to the test
        sys.stdin.read()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
