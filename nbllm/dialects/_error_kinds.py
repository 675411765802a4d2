"""The classification of errors: one table for providers and command-line agents. Pure.

Machine-readable codes (codes, types, reasons) take precedence over the message, the message over the HTTP
status. Quoted text inside a message is ignored: it is the name of a parameter, a model or a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..core import errors
from ..core.errors import ProviderError
from ._json import items, label, obj

_BY_STATUS: dict[int, type[ProviderError]] = {
    400: errors.BadRequest,
    401: errors.AuthenticationError,
    402: errors.QuotaExceeded,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    405: errors.NotFound,
    407: errors.AuthenticationError,
    410: errors.NotFound,
    413: errors.BadRequest,
    422: errors.BadRequest,
    429: errors.RateLimited,
    498: errors.Overloaded,  # Groq's flex tier
    503: errors.Overloaded,
    529: errors.Overloaded,
}

STATUSES = frozenset({*_BY_STATUS, 408, 409, 500, 502, 504, 520, 522, 524})  # error statuses of APIs

# Codes, types and reasons with one meaning; compared without case, dashes and underscores.
_CODES: dict[str, type[ProviderError]] = {
    code.replace("_", ""): kind
    for kind, codes in (
        (
            errors.ContextLengthExceeded,
            "context_length_exceeded context_window_exceeded context_window_exceeded_error "
            "model_context_window_exceeded "
            "exceed_context_size_error context_length_error prompt_too_long input_too_long "
            "max_context_length_exceeded "
            "tokens_limit_reached context_too_long",
        ),
        (
            errors.NotFound,
            "model_not_found model_not_found_error model_not_supported model_not_available "
            "unknown_model invalid_model "
            "model_decommissioned model_not_exist not_found_error deployment_not_found "
            "model_deprecated invalid_model_id "
            "resource_not_found_error not_found provider_model_not_found_error",
        ),
        (
            errors.QuotaExceeded,
            "insufficient_quota insufficient_balance insufficient_credits insufficient_funds "
            "arrearage payment_required "
            "billing_hard_limit_reached billing_not_active billing_error credits_exhausted "
            "exceeded_current_quota_error "
            "insufficient_balance_error usage_limit_exceeded out_of_credits budget_exceeded "
            "insufficient_user_quota credit_balance_exhausted allocation_quota_free_tier_only",
        ),
        (
            errors.AuthenticationError,
            "invalid_api_key api_key_invalid incorrect_api_key invalid_api_key_error "
            "authentication_error unauthenticated "
            "invalid_authentication_error expired_api_key api_key_expired token_expired expired_token "
            "missing_api_key provider_auth_error "
            "access_token_expired unauthorized account_deactivated",
        ),
        (
            errors.ContentFiltered,
            "content_filter content_policy_violation content_policy_violation_error "
            "responsible_ai_policy_violation "
            "data_inspection_failed prohibited_content moderation_blocked content_filtered content_blocked "
            "sensitive_words_detected sensitive_content_detected input_text_sensitive_content_detected "
            "output_text_sensitive_content_detected input_image_sensitive_content_detected",
        ),
        (
            errors.Overloaded,
            "overloaded overloaded_error engine_overloaded engine_overloaded_error capacity_exceeded "
            "server_overloaded "
            "model_overloaded service_unavailable server_is_overloaded over_capacity",
        ),
        (
            errors.RateLimited,
            "rate_limit_exceeded rate_limit_error rate_limited rate_limit_reached rate_limit_reached_error "
            "too_many_requests throttling throttling_exception throttling_rate_quota throttled "
            "usage_limit_reached",
        ),
        (
            errors.PermissionDenied,
            "permission_denied permission_error access_denied model_terms_required "
            "unsupported_country_region_territory "
            "api_key_service_blocked service_disabled insufficient_permissions",
        ),
        (
            errors.BadRequest,
            "invalid_request_error invalid_request invalid_argument bad_request bad_request_error",
        ),
        (errors.ServerError, "internal_server_error internal_error server_error internal_failure"),
    )
    for code in codes.split()
}
# Kinds whose codes some servers use for any error: the message may be more exact.
_GENERIC = frozenset(
    {errors.BadRequest, errors.PermissionDenied, errors.ServerError, errors.RateLimited, errors.NotFound}
)

_MODEL_NAME = r"models?(?: \S+)?(?: (?:named|called|name|id|code|identifier))?(?: \S+)?"
# The first match wins. Compiled at the first error: at import they would slow down the start.
_PATTERNS: tuple[tuple[str, type[ProviderError]], ...] = (
    # messages about a wrong parameter, id or name, which other patterns below would match too
    (
        r"(?:unknown|unrecogni[sz]ed|unsupported|unexpected|invalid|extra|missing) (?:request )?"
        r"(?:parameter|argument|field|property|option|metadata|key '|value)|"
        r"extra inputs are not permitted|string too long|array too long|string_above_max_length|"
        r"max_?(?:completion_|output_|new_)?tokens\W{0,3}.{0,50}(?:must be|is too (?:large|high|"
        r"big)|at most|less than)|"
        r"supports? at most \d+ (?:completion|output) tokens|too many (?:tools|images|functions|stop)|"
        r"no endpoints found that support",
        errors.BadRequest,
    ),
    (
        r"tokens per (?:min|day|hour)|requests per (?:min|day|hour)|\((?:tpm|rpm|tpd|rpd)\)|"
        r"wait before (?:trying|sending)",
        errors.RateLimited,
    ),
    (
        r"context[ _-]?(?:length|window|size|limit)|maximum context|prompt (?:is|was) too long|"
        r"prompt too long|"
        r"input (?:is|was) too (?:long|large)|input token count|prompt token count|"
        r"too many (?:input |prompt |total )*tokens|"
        r"maximum (?:prompt|input|model) length|max(?:imum)? (?:sequence|token) (?:length|limit)|"
        r"(?:prompt|input|messages?|request)s? exceeds? (?:the |model |your )*(?:max|limit|token|"
        r"context|number)|"
        r"length of (?:all |the )*messages|reduce (?:the )?length of|reduce your (?:prompt|message)|"
        r"range of input length|longer than the (?:maximum )?model|input tokens exceed|"
        r"tokens? exceeds? the (?:max|limit|conf)|"
        r"exceeds? the (?:maximum |max )?(?:number of |allowed )*(?:input )?tokens|"
        r"too large for model with|"
        r"exceeded model token limit|number of tokens to keep|token limit exceeded|"
        r"exceeds? (?:the )?(?:model'?s? )?max(?:imum)? (?:input|prompt|context)|"
        r"current length is \d+ while limit is|exceeds? max length|input length .{0,40}exceed|"
        r"but model only supports up to|tokens too long|text is too long|max(?:imum)? input characters|"
        r"too large for (?:the|this) model|tokens (?:\d+ )?cannot exceed|"
        r"exceeds? (?:the )?limit (?:of )?\d+ tokens|"
        r"exceeds? max(?:imum)? message tokens|超长|上下文长度|输入长度|长度超过",
        errors.ContextLengthExceeded,
    ),
    (
        r"content[ _]filter|content[ _](?:management )?policy|responsible ai|flagged (?:by|for|"
        r"as)|blocked by .{0,30}(?:safety|filter|moderation|guard)|"
        r"inappropriate content|prohibited content|moderation (?:block|flag|system)|"
        r"violat\w+ .{0,40}(?:usage|content|safety) (?:polic|guideline)|content exists risk|safety system|"
        r"contains? (?:\w+ )?sensitive (?:information|content|words)|new_sensitive|敏感词|"
        r"(?:input|prompt|content|request|message)s? (?:was|were|ha(?:s|ve) been) flagged|"
        r"敏感内容|不安全",
        errors.ContentFiltered,
    ),
    (
        r"insufficient (?:\w+ )?(?:quota|balance|credits?|funds)|(?:exceeded|out of|"
        r"over) (?:your |the )?(?:\w+ ){0,2}quota|额度(?:不足|已用尽|失败)|"
        r"(?:balance|credits?|funds) (?:(?:is|are|was) )?(?:insufficient|not enough|exhausted|"
        r"depleted|used up)|not enough (?:balance|quota|funds)|"
        r"credit balance|payment required|out of (?:\w+ )?credits?|(?:no|"
        r"not enough) (?:\w+ )?credits?|billing (?:details|hard limit|account|is|not|has)|"
        r"check your (?:plan|billing)|"
        r"specified api usage limits|good standing|arrear|account .{0,30}(?:overdue|suspended for|"
        r"has no)|spend(?:ing)? (?:limit|cap)|free (?:tier|quota).{0,30} exhausted|"
        r"(?:add|buy|purchase) (?:more )?credits|top up|recharge|"
        r"budget (?:has been |was |is )?exceeded|key limit exceeded|余额不足|欠费|充值",
        errors.QuotaExceeded,
    ),
    (
        r"(?:api[ _-]?key|token|credentials?) (?:\S+ )?(?:is |was |has |are )?(?:not valid|"
        r"invalid|expired|incorrect|revoked|missing|disabled|malformed|required)|"
        r"(?:invalid|incorrect|expired|missing|wrong|no|bad|unknown|"
        r"revoked) (?:\w+ )?(?:api[ _-]?key|credentials?|bearer|auth\w*|access token|token provided)|"
        r"authentication (?:fail|error|required|parameter|credential)|unauthenticated|"
        r"unauthori[sz]ed|login fail|not logged in|please log ?in|log in again|not authenticated|"
        r"security token .{0,40}(?:invalid|expired)|signature we calculated|unregistered callers|"
        r"api[ _-]?key (?:not found|was reported as leaked)|令牌|鉴权失败|身份验证",
        errors.AuthenticationError,
    ),
    (
        r"overloaded|high (?:demand|load|traffic)|at capacity|(?:capacity|load) (?:exceeded|limit|"
        r"reached)|over capacity|temporarily unavailable|service unavailable|"
        r"no (?:available|healthy) (?:server|worker|instance|capacity)|(?:server|model|engine|"
        r"system) (?:is )?(?:busy|overload)|currently unavailable|degraded function|"
        r"model is (?:currently |still )?loading|"
        r"访问量过大|系统繁忙|服务繁忙",
        errors.Overloaded,
    ),
    (
        r"rate[ _-]?limit|resource (?:has been )?exhausted|too many requests|usage limit|throttl|"
        r"(?:hit|reached|exceeded) (?:your |the )*(?:\w+ )*limit|"
        r"limit reached|quota (?:exceeded|exhausted)|exhausted your (?:capacity|quota)|"
        r"quota will reset|requests are being made too|"
        r"请求过多|请求过于频繁|速率限制|频率限制",
        errors.RateLimited,
    ),
    (
        rf"\b{_MODEL_NAME} (?:is |was |are |has |have |does |do |could |can |may |cannot |"
        rf"been )*(?:not|n't|never)[ -]*(?:be )?(?:found|exists?|available|supported|accessible|"
        rf"deployed|a valid|registered|served|installed|loaded)\b|"
        rf"\b{_MODEL_NAME} (?:doesn't|isn't|cannot be|has been|is|was) (?:exist|found|unknown|invalid|"
        rf"deprecated|decommissioned|retired|removed|available|unavailable)\b|"
        r"(?:unknown|no such|invalid|unsupported|unavailable|nonexistent) (?:\S+ )?model\b|"
        r"is not a valid model|not a valid model|unable to access model|not found the model|"
        r"model (?:not|does not|doesn.t) exist|model not found|model identifier is invalid|"
        r"deployment .{0,40}does not exist|no endpoints found|models/\S+ is not (?:found|supported)|"
        r"not a supported model|unable to access \S+ model|llm provider not provided|"
        rf"\b{_MODEL_NAME} (?:is no longer|ha(?:s|ve) reached) |inference profile that contains|模型不存在",
        errors.NotFound,
    ),
    (
        r"permission|forbidden|not allowed to|do(?:es)? not have access|access denied|"
        r"not authori[sz]ed to|location is not supported|organization must be verified|"
        r"(?:organization|account|project) (?:has been|is|was) (?:disabled|suspended|deactivated|restricted)",
        errors.PermissionDenied,
    ),
    (
        r"internal (?:server )?error|server (?:had an )?error|something went wrong|upstream error",
        errors.ServerError,
    ),
)
# A context that is too small, in messages that say so only in quotes.
_CONTEXT_PATTERN = (
    r"(?i)\binputs\W* tokens (?:\+|plus)|\binputs\W* must have less than|"
    r"(?:content|input|prompt|instructions)'?: string too long"
)
_QUOTED = r"(?<!\w)(?:'[^'\n]{1,120}'|`[^`\n]{1,120}`|\"[^\"\n]{1,120}\")(?!\w)"
# Kinds that a message can indicate under several statuses, and below those allowed for each status.
_BY_MESSAGE = (
    errors.ContextLengthExceeded,
    errors.ContentFiltered,
    errors.QuotaExceeded,
    errors.AuthenticationError,
)
_REFINED: dict[int, tuple[type[ProviderError], ...]] = {
    **dict.fromkeys(
        (400, 422),
        (*_BY_MESSAGE, errors.NotFound, errors.RateLimited, errors.Overloaded, errors.PermissionDenied),
    ),
    402: _BY_MESSAGE,
    404: (errors.BadRequest,),
    403: (*_BY_MESSAGE, errors.NotFound, errors.RateLimited, errors.Overloaded),
    413: (*_BY_MESSAGE, errors.RateLimited),
    429: (*_BY_MESSAGE, errors.Overloaded),
    500: (errors.ContextLengthExceeded, errors.AuthenticationError, errors.Overloaded),
}


def error_codes(value: Any) -> Iterator[str]:
    """The codes, types and reasons in an error object, the most exact first."""
    inner = obj(value)
    for detail in items(inner.get("details")):
        yield from filter(None, (label(detail.get("reason")),))
    for name in ("code", "errorCode", "error_code", "reason", "type", "status", "name"):
        yield from filter(None, (label(inner.get(name)),))
    for name in ("innererror", "inner_error", "metadata"):
        if isinstance(inner.get(name), dict):
            yield from (
                code for key in ("code", "error_type", "reason") if (code := label(inner[name].get(key)))
            )


def classify(status: int | None, text: str, codes: Iterable[str] = ()) -> type[ProviderError]:
    """The error class for an HTTP status (None for unknown), a message and machine-readable codes."""
    codes = list(codes)
    if status is None:
        status = next((int(c) for c in codes if re.fullmatch("[1-5][0-9]{2}", c)), None)
    if status is not None and 300 <= status < 400:
        return errors.NotFound
    by_code = next((k for c in codes if (k := _CODES.get(re.sub(r"[\W_]", "", c).lower()))), None)
    plain = re.sub(_QUOTED, "''", text)
    by_message = next((kind for pattern, kind in _PATTERNS if re.search(pattern, plain, re.I)), None)
    by_message = errors.ContextLengthExceeded if re.search(_CONTEXT_PATTERN, text) else by_message
    if by_code is not None and by_code not in _GENERIC:
        return by_code
    by_status = _BY_STATUS.get(status or 0)
    if status is None:
        return by_message or by_code or (errors.ServerError if "api_error" in codes else ProviderError)
    if by_message in _REFINED.get(status, ()) and not (
        by_code is errors.NotFound and by_message is errors.PermissionDenied
    ):
        return by_message or ProviderError
    if by_code is not None and (status in (400, 403, 413, 422) or by_status is None):
        return by_code
    if by_status is not None:
        return by_status
    if status >= 500:
        return errors.ServerError
    return by_message or errors.BadRequest if status >= 400 else ProviderError
