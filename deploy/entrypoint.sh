#!/bin/sh
# The container's command: like `antiphon`, but `serve` makes a first key, since a server that others can reach needs one.
set -eu
if [ "${1:-}" = serve ] && [ "$(antiphon keys list --json)" = "[]" ]; then
    echo "No key exists yet. This first one, named 'container', is shown only now:" >&2
    antiphon keys create --name container
fi
exec antiphon "$@"
