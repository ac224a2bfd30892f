"""The gateway's application."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from tts_gateway.errors import install_errors
from tts_gateway.readiness import IsReady, ReadinessProbe, cluster_is_ready
from tts_gateway.settings import GatewaySettings, read_settings

_NO_STORE: Final = {"Cache-Control": "no-store"}


def create_app(
    settings: GatewaySettings | None = None, *, is_ready: IsReady = cluster_is_ready
) -> FastAPI:
    """Build the application.

    ``is_ready`` answers whether the cluster can speak now; the default asks the cluster. Raises
    `ConfigurationError` when the environment is read and is wrong.
    """
    settings = settings or read_settings()
    probe = ReadinessProbe(
        is_ready, timeout_s=settings.ready_timeout_s, kept_s=settings.ready_kept_s
    )
    # Its documentation pages load scripts from other hosts, so they stay off.
    app = FastAPI(title="tts-tasks", docs_url=None, redoc_url=None, openapi_url=None)
    install_errors(app)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        """Say that this process runs: the same answer at any time, asking nobody."""
        return PlainTextResponse("ok\n", headers=_NO_STORE)

    @app.api_route("/ready", methods=["GET", "HEAD"])
    async def ready() -> Response:
        """Say whether a worker can speak now: 200 or 503, with the reasons."""
        report = await probe.report()
        body = {
            "ready": report.ready,
            "reasons": list(report.reasons),
            "workers": report.workers,
            "ready_workers": report.ready_workers,
        }
        return JSONResponse(body, 200 if report.ready else 503, headers=_NO_STORE)

    return app
