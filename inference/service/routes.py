"""The routes of the service, each once: routing, authentication and OpenAPI follow from here."""

from __future__ import annotations

from functools import cache

from starlette.requests import Request
from starlette.responses import Response

from llama_hub.inference.service import (
    embeddings,
    info,
    moderations,
    openai,
    openai_responses,
    openapi,
)
from llama_hub.inference.service.dispatch import by_field, by_path
from llama_hub.inference.service.embeddings import EmbeddingBody
from llama_hub.inference.service.moderations import ModerationBody
from llama_hub.inference.service.ollama_schemas import (
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    OllamaShowBody,
)
from llama_hub.inference.service.pages import about, page
from llama_hub.inference.service.platforms import (
    azureml,
    huggingface,
    ollama,
    ollama_embeddings,
    sagemaker,
)
from llama_hub.inference.service.responses_schemas import ResponsesBody
from llama_hub.inference.service.route import Route
from llama_hub.inference.service.schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    GenerateBody,
    ScoreBody,
    TokenizeBody,
)
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document, json_bytes

ANY = (ChatBody, CompletionBody, GenerateBody)


async def invocations(service: Service, request: Request, document: Document) -> Response:
    """Any body; ``CustomAttributes: route=/v1/…`` chooses a route by name."""
    path = sagemaker.route_attribute(request.headers.get(sagemaker.ATTRIBUTES, ""))
    handler = by_field(ROUTES, document) if path is None else by_path(ROUTES, path)
    return await handler(service, request, document)


async def score(service: Service, request: Request, document: Document) -> Response:
    """Any body, and that of Azure's own Llama 2 deployments."""
    if "input_data" in document:
        return await azureml.score(service, request, document)
    return await by_field(ROUTES, document)(service, request, document)


async def described(service: Service, request: Request, document: Document) -> Response:
    """The OpenAPI document of these routes."""
    root = service.settings.root_path.rstrip("/")
    return Response(_description(root), media_type="application/json")


@cache
def _description(root: str) -> bytes:
    return json_bytes(openapi.document(ROUTES, root))


ROUTES: tuple[Route, ...] = (
    Route(
        "POST", "/v1/chat/completions", openai.chat, "Answer a conversation (OpenAI).",
        (ChatBody,), needs_model=True, field="messages",
    ),
    Route(
        "POST", "/v1/completions", openai.completions, "Continue prompts (OpenAI).",
        (CompletionBody,), needs_model=True, field="prompt",
    ),
    Route(
        "POST", "/v1/responses", openai_responses.respond,
        "Answer a conversation in items, without keeping it (OpenAI).",
        (ResponsesBody,), needs_model=True,
    ),
    Route(
        "POST", "/v1/embeddings", embeddings.embeddings,
        "Vectors of texts: the mean of the last hidden states, of length 1 (OpenAI).",
        (EmbeddingBody,), needs_model=True,
    ),
    Route(
        "POST", "/v1/moderations", moderations.moderate,
        "What the installed moderation hooks say of texts (OpenAI).", (ModerationBody,),
    ),
    Route(
        "POST", "/tokenize", openai.tokenize, "Token ids of a text or a conversation.",
        (TokenizeBody,), needs_model=True,
    ),
    Route(
        "POST", "/detokenize", openai.detokenize, "Text of token ids.",
        (DetokenizeBody,), needs_model=True,
    ),
    Route(
        "POST", "/invocations", invocations, "Any of the generating bodies (SageMaker).",
        ANY, needs_model=True,
    ),
    Route(
        "POST", "/score", score, "Any of the generating bodies (Azure ML).",
        (*ANY, ScoreBody), needs_model=True,
    ),
    Route(
        "POST", "/", huggingface.root, "Continue texts; the answer in a list (Hugging Face).",
        (GenerateBody,), shape="huggingface", needs_model=True,
    ),
    Route(
        "POST", "/generate", huggingface.generate, "Continue a text (Hugging Face).",
        (GenerateBody,), shape="huggingface", needs_model=True, field="inputs",
    ),
    Route(
        "POST", "/generate_stream", huggingface.generate_stream,
        "Continue a text, streamed (Hugging Face).",
        (GenerateBody,), shape="huggingface", needs_model=True,
    ),
    Route(
        "POST", "/api/chat", ollama.chat, "Answer a conversation (Ollama).",
        (OllamaChatBody,), shape="ollama", needs_model=True,
    ),
    Route(
        "POST", "/api/generate", ollama.generate, "Continue a prompt (Ollama).",
        (OllamaGenerateBody,), shape="ollama", needs_model=True,
    ),
    Route(
        "POST", "/api/embed", ollama_embeddings.embed, "Vectors of texts (Ollama).",
        (OllamaEmbedBody,), shape="ollama", needs_model=True,
    ),
    Route(
        "POST", "/api/embeddings", ollama_embeddings.embeddings, "Vector of a text (Ollama).",
        (OllamaEmbeddingsBody,), shape="ollama", needs_model=True,
    ),
    Route(
        "POST", "/api/show", ollama.show, "What the model is (Ollama).",
        (OllamaShowBody,), shape="ollama", needs_model=True,
    ),
    Route(
        "GET", "/api/tags", ollama.tags, "The model that is served (Ollama).",
        shape="ollama", needs_model=True,
    ),
    Route("GET", "/api/version", ollama.version, "This server's version (Ollama)."),
    Route(
        "GET", "/", page("index.html", "text/html"), "The chat page.",
        answers="text/html", open=True,
    ),
    Route(
        "GET", "/v1/models", openai.list_models, "The model that is served.", needs_model=True
    ),
    Route("GET", "/v1/models/{name:path}", openai.get_model, needs_model=True),
    Route("GET", "/manifest", info.manifest, "Which weights run, under which licence."),
    Route("GET", "/metrics", info.metrics, "Prometheus metrics.", answers="text/plain"),
    Route("GET", "/version", info.version, "This server's version.", open=True),
    Route(
        "GET", "/health", azureml.ready, "200 when ready, 503 until then.",
        open=True, reports_readiness=True,
    ),
    Route(
        "GET", "/health/live", azureml.live, "200 while the process answers (liveness).",
        open=True,
    ),
    Route(
        "GET", "/health/ready", azureml.ready, "200 when ready, 503 until then (readiness).",
        open=True, reports_readiness=True,
    ),
    Route(
        "GET", "/ping", sagemaker.ping, "200 when ready, 503 until then (SageMaker).",
        answers="", open=True, reports_readiness=True,
    ),
    Route(
        "POST", "/ping", sagemaker.ping, "200 when ready, 503 until then (SageMaker).",
        answers="", open=True, reports_readiness=True,
    ),
    Route("GET", "/openapi.json", described, open=True),
    Route("GET", "/swagger.json", described, open=True),
    Route("GET", "/docs", page("docs.html", "text/html"), open=True),
    Route("GET", "/page.json", about, open=True),
    Route("GET", "/page/page.css", page("page.css", "text/css"), open=True),
    Route("GET", "/page/page.js", page("page.js", "text/javascript"), open=True),
    Route("GET", "/page/client.js", page("client.js", "text/javascript"), open=True),
    Route("GET", "/page/render.js", page("render.js", "text/javascript"), open=True),
    Route("GET", "/page/store.js", page("store.js", "text/javascript"), open=True),
    Route("GET", "/page/marked.js", page("marked.js", "text/javascript"), open=True),
    Route("GET", "/page/purify.js", page("purify.js", "text/javascript"), open=True),
    Route("GET", "/page/docs.js", page("docs.js", "text/javascript"), open=True),
    Route("GET", "/page/icon.svg", page("icon.svg", "image/svg+xml"), open=True),
)  # fmt: skip
OPEN = frozenset((route.method, route.path) for route in ROUTES if route.open)
