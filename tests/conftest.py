"""What every test is run with."""

from hypothesis import settings

# How long one example may take is no promise of ours, and a busy machine breaks any bound.
settings.register_profile(
    "understudy", settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("understudy")
