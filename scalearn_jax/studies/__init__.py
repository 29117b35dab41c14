"""Many runs: studies, their tables and figures."""
