"""The environment in which names of providers lead to a simulator."""


def leading_to(sim, key):
    """Addresses of the five formats' providers, and `key` for those that want one."""
    return {
        "OPENAI_BASE_URL": sim.base_url("openai_chat"),
        "ANTHROPIC_BASE_URL": sim.base_url("anthropic"),
        "GEMINI_BASE_URL": sim.base_url("gemini"),
        "OLLAMA_HOST": sim.base_url("ollama"),
        **dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), key),
    }
