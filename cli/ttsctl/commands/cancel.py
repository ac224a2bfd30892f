"""``ttsctl cancel``: an online job is not wanted any more."""

from __future__ import annotations

import sys

import click

from ttsctl.api import Client, pass_client
from ttsctl.progress import reporter_for


@click.command()
@click.argument("job")
@pass_client
def cancel(client: Client, /, job: str) -> None:
    """Cancel an online job.

    One that waits is not spoken; one that is being spoken stops at the end of its segment. A job
    that has ended is a conflict (exit code 5). Batches have `ttsctl batch cancel`.
    """
    client.job_cancel(job)
    reporter_for(sys.stderr).say("job.cancelled", f"Cancelled job {job}", id=job)
