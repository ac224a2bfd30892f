"""The truth about jobs and batches; the queue is only its doorbell."""

from tts_tasks.ledger.admission import LaneLoad, Terms
from tts_tasks.ledger.batch_book import BatchBook
from tts_tasks.ledger.batch_records import BatchRecord
from tts_tasks.ledger.jobs import JobLedger
from tts_tasks.ledger.records import Claim, ClaimRefused, JobMeta, JobRecord, Refusal
from tts_tasks.ledger.segments import Checkpoint, LoggedSegment, SegmentLog

__all__ = [
    "BatchBook",
    "BatchRecord",
    "Checkpoint",
    "Claim",
    "ClaimRefused",
    "JobLedger",
    "JobMeta",
    "JobRecord",
    "LaneLoad",
    "LoggedSegment",
    "Refusal",
    "SegmentLog",
    "Terms",
]
