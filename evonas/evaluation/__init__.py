"""The funnel: named stages from cheap to dear, and what travels between driver and slots."""
