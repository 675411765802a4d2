"""Environment variables that send all providers' requests to a simulator."""


def simulator_environment(sim, key):
    """The base URLs of the providers of five formats, and `key` for those that require one."""
    return {
        "OPENAI_BASE_URL": sim.base_url("openai_chat"),
        "ANTHROPIC_BASE_URL": sim.base_url("anthropic"),
        "GEMINI_BASE_URL": sim.base_url("gemini"),
        "OLLAMA_HOST": sim.base_url("ollama"),
        **dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), key),
    }
