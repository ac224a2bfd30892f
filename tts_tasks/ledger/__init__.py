"""The truth about jobs and batches; the queue is only its doorbell."""

from tts_tasks.ledger.admission import LaneLoad, Terms
from tts_tasks.ledger.batches import BatchBook, BatchRecord
from tts_tasks.ledger.jobs import JobLedger
from tts_tasks.ledger.records import Claim, ClaimRefused, JobMeta, JobRecord, Refusal

__all__ = [
    "BatchBook",
    "BatchRecord",
    "Claim",
    "ClaimRefused",
    "JobLedger",
    "JobMeta",
    "JobRecord",
    "LaneLoad",
    "Refusal",
    "Terms",
]
