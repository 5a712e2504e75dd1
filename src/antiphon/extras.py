"""Which optional extra brings a module, so that a missing one is reported with the command that installs it."""

from antiphon.errors import AntiphonError

EXTRA_OF = {
    "aiohttp": "server",
    "aiosqlite": "server",
    "alembic": "server",
    "cryptography": "server",
    "jinja2": "server",
    "prometheus_client": "server",
    "python_multipart": "server",
    "sqlalchemy": "server",
    "starlette": "server",
    "structlog": "server",
    "uvicorn": "server",
    "websockets": "server",
    "gguf": "local",
    "llguidance": "local",
    "xllamacpp": "llama",
    "openvino": "openvino",
    "openvino_genai": "openvino",
    "openvino_tokenizers": "openvino",
    "tokenizers": "openvino",
    "redis": "redis",
    "asyncpg": "postgres",
    "obstore": "bucket",
    "ray": "ray",
    "bs4": "files",
    "mammoth": "files",
    "markdownify": "files",
    "pypdf": "files",
    "mcp": "mcp",
    "mcp_types": "mcp",
    "opentelemetry": "otel",
}
"""Top-level module: the extra of this package that depends on it."""

_PURPOSE = {
    "server": "The server",
    "local": "Running a model on this machine",
    "llama": "llama.cpp",
    "openvino": "OpenVINO",
    "redis": "Redis",
    "postgres": "PostgreSQL",
    "bucket": "Files in a bucket",
    "ray": "Ray Serve",
    "files": "Reading HTML, Word documents and PDF",
    "mcp": "Calling the tools of MCP servers",
    "otel": "Making spans",
}


class MissingExtra(AntiphonError):  # noqa: N818 - named after what happened
    """A part of Antiphon was used whose dependencies are not installed; ``extra`` names them."""

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(
            f"{_PURPOSE[extra]} needs the package {module!r}, which is not installed.",
            hint=f"pip install 'antiphon[{extra}]'",
        )
        self.extra = extra


def missing_extra(error: ImportError) -> MissingExtra | None:
    """Return the error to show for an import that failed, None where no extra brings that module.

    An import may fail inside another, so the causes of ``error`` are read too.
    """
    cause: BaseException | None = error
    while cause is not None:
        module = (getattr(cause, "name", None) or "").partition(".")[0]
        if isinstance(cause, ImportError) and module in EXTRA_OF:
            return MissingExtra(EXTRA_OF[module], module)
        cause = cause.__cause__ or cause.__context__
    return None
