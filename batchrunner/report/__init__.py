"""Reports on a run as text: status, failures, audits, exports."""
