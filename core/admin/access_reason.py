"""The form that asks for the reason before PHI is revealed. The audit record of the access contains it."""

from typing import Any

from django import forms
from django.conf import settings

REASONS = {
    "support": "Support request from the user",
    "incident": "Incident or error analysis",
    "privacy": "Privacy or security review",
    "quality": "Quality review",
    "other": "Other",
}
MAX_DETAILS_LENGTH = 200  # characters


class AccessReasonForm(forms.Form):
    reason = forms.ChoiceField(
        label="Reason for access",
        choices={"": "Choose a reason", **REASONS},
        error_messages={"required": "Choose a reason."},
    )
    details = forms.CharField(
        required=False,
        max_length=MAX_DETAILS_LENGTH,
        help_text="For example a ticket number; required for “Other”. Do not enter names or health data of patients.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.fields["reason"].required = settings.REVEAL_REASON_REQUIRED

    def clean(self) -> None:
        if self.cleaned_data.get("reason") == "other" and not self.cleaned_data.get("details", ""):
            self.add_error("details", "Describe the reason, because “Other” does not say enough.")

    def changes(self) -> dict[str, list[Any]]:
        """Return the reason in the format of `AuditEvent.changes`, or {} without one."""
        label = REASONS.get(self.cleaned_data["reason"], "")
        text = ": ".join(filter(None, (label, self.cleaned_data["details"])))
        return {"reason": [None, text]} if text else {}
