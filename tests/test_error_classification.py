"""The meaning of errors: the wordings of many servers, and similar wordings with another meaning; waiting
times in every unit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.agents.base import agent_error
from nbllm.core import errors
from nbllm.core.calls import Endpoint
from nbllm.dialects._error_kinds import classify
from nbllm.dialects._errors import http_error, provider_error
from nbllm.dialects._limits import duration_text, parse_retry_after, wait_in_text

ROW = Endpoint("x", "openai_chat", "http://127.0.0.1/v1", label="X")
NOW = 1_749_920_400.0


def kind(status, body, **headers):
    """The class of the error in a page, and the error."""
    page = body if isinstance(body, str) else json.dumps(body)
    return http_error(status, {k.replace("_", "-"): v for k, v in headers.items()}, page.encode(), ROW)


CONTEXT = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "This model's maximum context length is 4097 tokens, however you requested 5000 tokens (4000 in "
    "the messages, "
    "1000 in the completion). Please reduce the length of the messages or completion.",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
    "prompt is too long: 215000 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Unable to submit request because the input token count is 40000 but the model only supports up "
    "to 32768.",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "The total length of all messages is too long.",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that "
    "`max_model_len` "
    "is no smaller than the number of text tokens.",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "Input is too long for requested model.",
    "Prompt exceeds max length",
    "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
    "the request exceeds the available context size. try increasing the context size or enable context shift",
    "Context size has been exceeded.",
    "input is too large to process. increase the physical batch size",
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "Invalid request: Your request exceeded model token limit: 8192",
    "`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 `inputs` tokens and 20 `max_new_tokens`",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 6000.",
    "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
    "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded "
    "with context length "
    "of only 4096 tokens",
    "The number of tokens to keep from the initial prompt is greater than the context length.",
    "prompt token count of 70000 exceeds the limit of 64000",
    "Requested token count exceeds the model's maximum context length of 131072 tokens.",
    "invalid params, context window exceeds limit (2013)",
    "Invalid 'messages[0].content': string too long. Expected a string with maximum length 10485760, "
    "but got more.",
    "The prompt is too long: 100000, model maximum context length: 8192",
    "the number of input tokens 4097 cannot exceed the total tokens limit 4096 for this model",
    "The request is too large for the model: 5000 input tokens, 4096 allowed",
    "total tokens of image and text exceed max message tokens",
    "Total message size 5000 exceeds limit 4096 tokens",
    "The text is too long: 9000 tokens, the limit is 8192",
    "prompt tokens too long",
    "Prompt 超长",
    "输入长度超过模型的最大上下文长度",
]


@pytest.mark.parametrize("words", CONTEXT)
@pytest.mark.parametrize("status", [400, 422, None])
def test_what_does_not_fit_the_context_is_known_in_every_wording(words, status):
    """With vague statuses and none."""
    assert errors.ContextLengthExceeded is type(
        provider_error(ROW, {"error": {"message": words}}, status=status)
    )


MODELS = [
    "Model Not Exist",
    "acme/foo is not a valid model ID",
    "Unknown Model, please check the model code.",
    "The requested model 'gpt-foo' does not exist.",
    'Failed to load model "foo". Error: Model not found: foo',
    "The requested model 'foo' is not supported by any provider you have enabled.",
    "The model `foo` does not exist or you do not have access to it.",
    "Invalid model: foo",
    "Invalid model 'foo'. Permitted models can be found in the documentation.",
    "models/foo is not found for API version v1beta, or is not supported for generateContent.",
    "model 'foo' not found, try pulling it first",
    "Unable to access model foo. Please visit the site to view the list of supported models.",
    "Model not found, inaccessible, and/or not deployed",
    "Not found the model foo or Permission denied",
    "The provided model identifier is invalid.",
    "Model does not exist. Please check it carefully.",
    "chat_completion: Invalid model name passed in model=foo. Call `/v1/models` to view available models.",
    "The model `llama-2` has been decommissioned and is no longer supported.",
    "unknown model: foo",
    "'foo' is not a supported model",
    "Unable to access non-serverless model foo. Please create and start a new dedicated endpoint.",
    "LLM Provider NOT provided. Pass in the LLM provider you are trying to call.",
    "Invocation of model ID foo with on-demand throughput isn't supported. Retry with the ID or ARN of an "
    "inference profile that contains this model.",
    "The model gemini-1.0 is no longer available",
    "模型不存在",
]


@pytest.mark.parametrize("words", MODELS)
@pytest.mark.parametrize("status", [400, 422, 404, None])
def test_an_unknown_model_is_known_in_every_wording(words, status):
    """So that another one may be asked."""
    assert errors.NotFound is type(provider_error(ROW, {"error": {"message": words}}, status=status))


# What sounds like something else: a bad request all the same.
FRIENDS = [
    "Invalid 'messages[2].tool_calls[0].id': string too long. Expected a string with maximum length "
    "40, but got a "
    "string with length 46 instead.",
    "Unknown parameter: 'moderation'.",
    "Unknown parameter: 'context_length'.",
    "Unrecognized request argument supplied: rate_limit",
    "Invalid metadata: key 'billing_code' is too long",
    "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
    "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less "
    "than the "
    "`context_window` for this model",
    "Unsupported parameter: 'temperature' is not supported with this model.",
    "This model does not support image input.",
    "Invalid 'tools[0].function.name': string too long.",
    "Invalid value: 'overloaded'. Supported values are: 'a' and 'b'.",
    "tool_use ids were found without tool_result blocks immediately after",
    "messages.0.authentication: Extra inputs are not permitted",
    "Field 'quota_exceeded' is required",
    "This model only supports single tool-calls at once!",
    "No endpoints found that support tool use.",
    "Unsupported value: 'temperature' does not support 0.2 with this model.",
    "Developer instruction is not enabled for models/gemma-3-27b-it",
]


@pytest.mark.parametrize("words", FRIENDS)
def test_false_friends_are_bad_requests(words):
    """A parameter's name is no verdict."""
    code = {"message": words, "type": "invalid_request_error", "code": None}
    assert errors.BadRequest is type(provider_error(ROW, {"error": code}, status=400))


# (status, body, class): machine-readable words first, then sentences, then the status
OTHERS = [
    (403, {"error": {"message": "Key limit exceeded (total limit).", "code": 403}}, errors.QuotaExceeded),
    (403, {"error": {"message": "Your API key was reported as leaked."}}, errors.AuthenticationError),
    (400, {"error": {"message": "This organization has been disabled."}}, errors.PermissionDenied),
    (400, {"error": {"message": "no", "code": "model_not_found"}}, errors.NotFound),
    (400, {"error": {"message": "no", "type": "context_length_exceeded"}}, errors.ContextLengthExceeded),
    (429, {"error": {"message": "no", "code": "insufficient_quota"}}, errors.QuotaExceeded),
    (429, {"error": {"message": "Rate limit reached for requests"}}, errors.RateLimited),
    (429, {"error": {"message": "x", "type": "engine_overloaded_error"}}, errors.Overloaded),
    (429, {"error": {"message": "no", "code": "credit_balance_exhausted"}}, errors.QuotaExceeded),
    (429, {"error": {"message": "Your project exceeded its monthly spending cap"}}, errors.QuotaExceeded),
    (403, {"message": "Out of call volume quota. Quota will be replenished."}, errors.QuotaExceeded),
    (403, {"error": {"message": "The free tier of the model has been exhausted."}}, errors.QuotaExceeded),
    (403, {"error": {"message": "no", "code": "AllocationQuota.FreeTierOnly"}}, errors.QuotaExceeded),
    (403, {"error": {"message": "no", "code": "insufficient_user_quota"}}, errors.QuotaExceeded),
    (403, {"error": {"message": "用户额度不足, 剩余额度: 0"}}, errors.QuotaExceeded),
    (403, {"error": {"message": "该令牌额度已用尽"}}, errors.QuotaExceeded),
    (401, {"error": {"message": "该令牌已过期"}}, errors.AuthenticationError),
    (400, {"error": {"message": "no", "code": "sensitive_words_detected"}}, errors.ContentFiltered),
    (400, {"error": {"message": "no", "code": "InputTextSensitiveContentDetected"}}, errors.ContentFiltered),
    (400, {"error": {"message": "请求包含敏感词"}}, errors.ContentFiltered),
    (
        400,
        {"error": {"message": "The output text may contain sensitive information"}},
        errors.ContentFiltered,
    ),
    (None, {"error": {"message": "output new_sensitive"}}, errors.ContentFiltered),
    (403, {"code": "x", "error": "Content violates usage guidelines. Team: x"}, errors.ContentFiltered),
    (400, {"error": {"message": "Organization has been restricted."}}, errors.PermissionDenied),
    (400, {"detail": "Function id 'x': DEGRADED function cannot be invoked"}, errors.Overloaded),
    (400, {"error": {"message": "the max input characters is 20000"}}, errors.ContextLengthExceeded),
    (None, {"type": "error", "error": {"type": "api_error", "message": None}}, errors.ServerError),
    (None, {"error": {"type": "api_error", "message": "Overloaded"}}, errors.Overloaded),
    (400, {"error": {"type": "api_error", "message": "no"}}, errors.BadRequest),
    # Bedrock's throttling, which sounds like a context that is too small
    (429, {"message": "Too many tokens, please wait before trying again."}, errors.RateLimited),
    (429, {"message": "Too many tokens per day, please wait before trying again."}, errors.RateLimited),
    (
        413,
        {
            "error": {
                "message": "Request too large for model on tokens per minute (TPM): Limit 6000, "
                "Requested 9000"
            }
        },
        errors.RateLimited,
    ),
    (
        400,
        {"error": {"message": "Access denied.", "code": "Arrearage", "type": "Arrearage"}},
        errors.QuotaExceeded,
    ),
    (400, {"error": {"message": "Your credit balance is too low to access the API."}}, errors.QuotaExceeded),
    (402, {"error": {"message": "This request requires more credits"}}, errors.QuotaExceeded),
    (403, {"error": {"message": "insufficient balance"}}, errors.QuotaExceeded),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}, errors.QuotaExceeded),
    (400, {"error": {"message": "Account balance not enough"}}, errors.QuotaExceeded),
    (403, {"error": {"message": "Your credits are exhausted"}}, errors.QuotaExceeded),
    (403, {"error": {"message": "The caller does not have permission"}}, errors.PermissionDenied),
    (401, {"error": {"message": "The model does not exist"}}, errors.AuthenticationError),
    (400, {"error": {"message": "API key expired. Please renew the API key."}}, errors.AuthenticationError),
    (
        400,
        {
            "error": {
                "message": "no",
                "status": "INVALID_ARGUMENT",
                "details": [{"reason": "API_KEY_INVALID"}],
            }
        },
        errors.AuthenticationError,
    ),
    (400, {"error": {"message": "Incorrect API key provided: xai-***."}}, errors.AuthenticationError),
    (498, {"error": {"message": "x", "type": "capacity_exceeded"}}, errors.Overloaded),
    (503, {"error": {"message": "The model is overloaded."}}, errors.Overloaded),
    (529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, errors.Overloaded),
    (500, {"error": {"message": "Context size has been exceeded."}}, errors.ContextLengthExceeded),
    (500, {"error": {"message": "rate limit store down"}}, errors.ServerError),
    (502, "<html>Bad Gateway</html>", errors.ServerError),
    (
        400,
        {"error": {"code": "content_filter", "message": "The response was filtered"}},
        errors.ContentFiltered,
    ),
    (
        400,
        {"error": {"code": "data_inspection_failed", "message": "Input may contain inappropriate content."}},
        errors.ContentFiltered,
    ),
    (
        400,
        {
            "error": {
                "code": "invalid_prompt",
                "message": "Your prompt was flagged as violating our usage policy",
            }
        },
        errors.ContentFiltered,
    ),
    (404, {"error": {"message": "No endpoints found that support tool use."}}, errors.BadRequest),
    (404, {"error": {"message": "No endpoints found matching your data policy."}}, errors.NotFound),
    (410, {"error": {"message": "gone"}}, errors.NotFound),
    (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}, errors.QuotaExceeded),
    (429, {"error": {"message": "Budget has been exceeded! Current cost: 1.2"}}, errors.QuotaExceeded),
    (400, {"error": {"message": "no", "type": "budget_exceeded"}}, errors.QuotaExceeded),
    (403, {"message": "The security token included in the request is expired"}, errors.AuthenticationError),
    (403, {"message": "The request signature we calculated does not match"}, errors.AuthenticationError),
    (403, {"error": {"message": "Method doesn't allow unregistered callers"}}, errors.AuthenticationError),
    (400, {"error": {"message": "API Key not found. Please pass one."}}, errors.AuthenticationError),
    (400, {"error": {"message": "令牌已过期或验证不正确"}}, errors.AuthenticationError),
    (500, {"error": {"message": "Authentication Error, Invalid token passed."}}, errors.AuthenticationError),
    (400, {"error": {"message": "User location is not supported for the API use."}}, errors.PermissionDenied),
    (400, {"error": {"message": "Your organization must be verified to stream"}}, errors.PermissionDenied),
    (400, {"error": {"message": "The model is still loading"}}, errors.Overloaded),
    (429, {"error": {"message": "该模型当前访问量过大,请您稍后再试"}}, errors.Overloaded),
    (400, {"error": {"message": "您的账户已达到速率限制"}}, errors.RateLimited),
    (400, {"error": {"message": "Content Exists Risk"}}, errors.ContentFiltered),
    (400, {"error": {"message": "Your request was rejected by the safety system."}}, errors.ContentFiltered),
    (403, {"error": {"message": "Your input was flagged", "code": 403}}, errors.ContentFiltered),
    (400, {"error": {"message": "可能包含不安全或敏感内容"}}, errors.ContentFiltered),
    (400, {"message": "plain"}, errors.BadRequest),
    (418, "teapot", errors.BadRequest),
    (404, {"error": {"message": "rate limit"}}, errors.NotFound),
    (400, {"error": {"message": "Too many requests in the queue, slow down"}}, errors.RateLimited),
    (407, "<title>Proxy Authentication Required</title>", errors.AuthenticationError),
]


@pytest.mark.parametrize(("status", "body", "expected"), OTHERS)
def test_an_error_is_what_it_says(status, body, expected):
    """By fields, then by words, then by its status."""
    assert expected is type(kind(status, body))


def test_fastapi_says_which_part_is_wrong():
    """`loc`, joined by dots, without the body."""
    detail = [
        {"loc": ["body", "messages", 0, "content"], "msg": "field required", "type": "missing"},
        {"loc": ["query", "k"], "msg": "too large"},
    ]
    error = kind(422, {"detail": detail})
    assert "messages.0.content: field required; query.k: too large" in str(error)


# A sentence of a command, and what it means.
COMMANDS = [
    ("Claude AI usage limit reached|1749924000", errors.RateLimited),
    ("Credit balance is too low", errors.QuotaExceeded),
    ("The file has 512 lines, which is more than allowed", errors.ProviderError),
    ("wrote 404 files and 500 tests", errors.ProviderError),
    ("You've hit your usage limit. Upgrade to Pro or try again in 3 days 2 hours.", errors.RateLimited),
    ("Selected model is at capacity. Please try a different model.", errors.Overloaded),
    ("API Error: 429 slow down", errors.RateLimited),
    ("API Error (status code 529)", errors.Overloaded),
    ("unexpected status 503 Service Unavailable", errors.Overloaded),
    ("Invalid API key - Please run /login", errors.AuthenticationError),
    ("Not logged in", errors.AuthenticationError),
    ("Prompt is too long", errors.ContextLengthExceeded),
    ("The 'gpt-foo' model is not supported when using Codex with a ChatGPT account.", errors.NotFound),
    ("it broke", errors.ProviderError),
]


@pytest.mark.parametrize(("words", "expected"), COMMANDS)
def test_a_command_is_read_by_the_same_table(words, expected):
    """A number in the words is no status unless they say so."""
    assert expected is type(agent_error(None, words, ROW))


WAITS = [
    ("Please try again in 20s.", 20),
    ("Please try again in 7m12.5s.", 432.5),
    ("Please try again in 120ms", 0.12),
    ("Please retry in 36.4s.", 36.4),
    ("Please retry after 55 seconds", 55),
    ("Try again in 5 minutes", 300),
    ("try again in 3 days 2 hours", 266_400),
    ("try again in 1 hour and 30 minutes", 5400),
    ("Your limit resets in 2 hrs", 7200),
    ("You can retry in about 10 minutes", 600),
    ("Please wait 20 seconds before retrying", 20),
    ("wait 1.5 minutes", 90),
    ("retry your request after 60 seconds", 60),
    ("Try again in an hour.", 3600),
    ("try again in one minute", 60),
    ("try again in 1 week", 604_800),
    ("请在 30 秒后重试", 30),
    ("请等待 2 分钟", 120),
    ("try again in a moment", None),
    ("try again in a few seconds", None),
    ("come back at 10 am", None),
    ("try again in 10 am", None),
    ("retry-after: 30 seconds", 30),
    ("usage limit reached|1749924000", 3600),
    ("try again later", None),
    ("version 5s", None),
    ("", None),
]


DATE = {"date": "Sat, 14 Jun 2025 17:00:00 GMT"}  # NOW
HEADERS = [
    ({"retry-after": "5"}, 5),
    ({"retry-after": " 5s "}, 5),
    ({"retry-after": "30 seconds"}, 30),
    ({"retry-after": "Sat, 14 Jun 2025 17:01:00 GMT"}, 60),
    ({"retry-after": "2025-06-14T17:01:00Z"}, 60),
    ({"retry-after": str(int(NOW) + 60)}, 60),
    ({"retry-after": f"{int(NOW) + 60}000"}, 60),
    ({"retry-after": "soon", "x-retry-after": "3"}, 3),
    ({"x-ratelimit-reset-after": "12.5"}, 12.5),
    ({"ratelimit-reset": "12"}, 12),
    ({"retry-after": "30, 30"}, 30),
    ({"retry-after": "soon, 4"}, 4),
    ({"retry-after": '"30"'}, 30),
    ({"retry-after": "-1"}, None),
    ({"retry-after": ""}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), HEADERS, ids=str)
def test_a_wait_is_read_in_every_header(headers, seconds):
    """Seconds, spans, dates, and moments in epoch seconds, which would be a wait of half a century."""
    assert seconds == parse_retry_after({**headers, **DATE}, {}, 0.0)


@pytest.mark.parametrize(("words", "seconds"), WAITS)
def test_a_wait_is_read_in_every_unit(words, seconds):
    """Where the sentence says that it is one."""
    assert seconds == wait_in_text(words, NOW)


@pytest.mark.parametrize(
    ("body", "headers", "hint"),
    [
        ({"error": {"message": "x"}}, {"retry_after": "3600"}, "Try again in an hour"),
        ({"error": {"message": "x"}}, {"retry_after": "45"}, "Try again in 45 seconds"),
        ({"error": {"message": "x"}}, {"retry_after_ms": "1500"}, "Try again in 2 seconds"),
        ({"error": {"message": "x", "retry_after": 90}}, {}, "Try again in 2 minutes"),
        ({"error": {"message": "x"}, "retry_after_ms": 60_000}, {}, "Try again in a minute"),
        ({"error": {"message": "x", "resets_in_seconds": 7200}}, {}, "Try again in 2 hours"),
        ({"error": {"message": "Please try again in 1m30s"}}, {}, "Try again in 2 minutes"),
        ({"error": {"message": "x"}}, {"retry_after": "86400"}, "Try again in a day"),
        ({"error": {"message": "x"}}, {}, "Wait a little"),
    ],
)
def test_the_hint_says_how_long(body, headers, hint):
    """In words that people use, rounded up."""
    assert kind(429, body, **headers).hint.startswith(hint)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "a second"),
        (1, "a second"),
        (59, "59 seconds"),
        (60, "a minute"),
        (61, "2 minutes"),
        (3600, "an hour"),
        (3700, "2 hours"),
        (1e6, "12 days"),
    ],
)
def test_a_span_in_words(seconds, words):
    """Never less than it is, but for a hundredth."""
    assert words == duration_text(seconds)


@given(
    st.one_of(st.none(), st.integers(100, 599)),
    st.text(max_size=200),
    st.lists(st.text(max_size=20), max_size=3),
)
def test_any_words_have_a_kind(status, text, codes):
    """Nothing foreign is raised."""
    assert issubclass(classify(status, text, codes), errors.ProviderError)


@pytest.mark.slow
def test_long_words_cost_their_length():
    """Twenty thousand characters that begin every pattern anew."""
    for piece in ("model ", "max_tokens ", "exceeds the ", "'a ", "try again in ", "invalid api key "):
        provider_error(ROW, {"error": {"message": piece * 4000}}, status=400)
