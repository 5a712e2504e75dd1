"""``antiphon templates``: the templates that `antiphon ask --template` takes."""

from cyclopts import App

from antiphon.cli.material import read_template, remove_template, template_names, templates_folder
from antiphon.cli.output import print_json

app = App(name="templates", help="List, show and remove templates of `antiphon ask`.")


@app.default
def listed() -> None:
    """List the templates with the first line of each prompt; `antiphon ask --save NAME ...` makes one."""
    for name in template_names():
        template = read_template(name)
        print(f"{name}: {(template.prompt or template.system).partition(chr(10))[0]}")


@app.command
def show(name: str, /) -> None:
    """Print a template as JSON; the file to edit is in the folder `templates` of ANTIPHON_HOME."""
    print_json({"path": templates_folder() / f"{name}.toml", "template": _fields(name)})


@app.command
def remove(name: str, /) -> None:
    """Remove a template."""
    remove_template(name)


def _fields(name: str) -> dict[str, object]:
    template = read_template(name)
    return {field: getattr(template, field) for field in template.__struct_fields__}
