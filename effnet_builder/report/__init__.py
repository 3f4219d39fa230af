"""Reports of trainings: HTML files of their own. Needs no matplotlib; the pictures of a report do."""

from .html import Picture, ReportData, Row, Sample, misclassified, render_report

__all__ = ["Picture", "ReportData", "Row", "Sample", "misclassified", "render_report"]
