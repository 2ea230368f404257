"""Options of ``llama-hub serve``, some of which ``chat`` shares."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from llama_hub.cli import completion

DEFAULT_PORT = 8000
LOOPBACK = "127.0.0.1"
MAX_SERVED_NAME = 256  # characters
EVERYWHERE = "0.0.0.0"

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL|PATH]...",
        help="Catalogue ids or folders. In a cloud's container: what the platform mounted.",
        show_default=False,
        autocompletion=completion.stored,
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        help="Address to listen on.",
        show_default=LOOPBACK,
        envvar="LLAMA_HUB_HOST",
        show_envvar=False,
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        help="Port; 0 takes a free one.",
        show_default=str(DEFAULT_PORT),
        min=0,
        max=65535,
        envvar="LLAMA_HUB_PORT",
        show_envvar=False,
    ),
]
EngineName = Annotated[
    Literal["torch", "vllm"],
    typer.Option(
        "--engine", help="Inference engine.", envvar="LLAMA_HUB_ENGINE", show_envvar=False
    ),
]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda or cuda:N.", envvar="LLAMA_HUB_DEVICE", show_envvar=False),
]
Dtype = Annotated[
    Literal["auto", "bfloat16", "float16", "float32"],
    typer.Option(
        help="Type of the weights; auto is the folder's.",
        case_sensitive=False,
        envvar="LLAMA_HUB_DTYPE",
        show_envvar=False,
    ),
]
Quantize = Annotated[
    Literal["int8", "int4"] | None,
    typer.Option(
        help="Quantise the weights while loading.",
        case_sensitive=False,
        envvar="LLAMA_HUB_QUANTIZE",
        show_envvar=False,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        help="Tokens of prompt and answer together.",
        show_default="the model's",
        min=1,
        envvar="LLAMA_HUB_CONTEXT",
        show_envvar=False,
    ),
]
MaxBatch = Annotated[
    int,
    typer.Option(
        help="Sequences that decode together.",
        min=1,
        envvar="LLAMA_HUB_MAX_BATCH",
        show_envvar=False,
    ),
]
TensorParallel = Annotated[
    int,
    typer.Option(
        help="Devices that share each layer.",
        min=1,
        envvar="LLAMA_HUB_TENSOR_PARALLEL",
        show_envvar=False,
    ),
]
GpuMemoryUtilization = Annotated[
    float,
    typer.Option(
        help="Share of each GPU's memory that this service may take, 0 to 1.",
        min=0.01,
        max=1.0,
        envvar="LLAMA_HUB_GPU_MEMORY_UTILIZATION",
        show_envvar=False,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY|@FILE|-",
        help="Key that callers must send; also in LLAMA_HUB_API_KEY.",
        show_default="none on loopback, else a new one, printed once",
    ),
]
NoApiKey = Annotated[
    bool, typer.Option("--no-api-key", help="Open to whoever reaches the port. Think twice.")
]
Speculate = Annotated[
    int | None,
    typer.Option(
        help="Tokens that are guessed from earlier ones and checked in one step, at most. Without "
        "the option: 7 on our CPU kernels, where answers stay the same bit by bit. 0: none.",
        min=0,
        max=64,
        envvar="LLAMA_HUB_SPECULATE",
        show_envvar=False,
        show_default=False,
    ),
]
MaxQueue = Annotated[
    int,
    typer.Option(
        help="Sequences that may wait; beyond: 429.",
        min=1,
        envvar="LLAMA_HUB_MAX_QUEUE",
        show_envvar=False,
    ),
]
MaxPrompt = Annotated[
    int | None,
    typer.Option(
        help="Tokens a prompt may have.",
        show_default="what the context holds",
        min=1,
        envvar="LLAMA_HUB_MAX_PROMPT",
        show_envvar=False,
    ),
]
RequestTimeout = Annotated[
    float,
    typer.Option(
        help="Seconds an answer may take.",
        min=0.1,
        envvar="LLAMA_HUB_REQUEST_TIMEOUT",
        show_envvar=False,
    ),
]
DrainTimeout = Annotated[
    float,
    typer.Option(
        help="Seconds that answers under way get after SIGTERM.",
        min=0,
        envvar="LLAMA_HUB_DRAIN_TIMEOUT",
        show_envvar=False,
    ),
]
CorsOrigin = Annotated[
    list[str] | None,
    typer.Option(help="Origin of web pages that may call; repeat it, '*' for all."),
]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Name by which this server may be called without a key; repeat it."
    ),
]
TrustedProxy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address or network of a proxy whose X-Forwarded headers are believed; repeat it.",
        show_default="this machine",
    ),
]
RootPath = Annotated[
    str,
    typer.Option(
        metavar="/PREFIX",
        help="Prefix under which a proxy shows the service.",
        show_default=False,
        envvar="LLAMA_HUB_ROOT_PATH",
        show_envvar=False,
    ),
]
CheckModel = Annotated[
    bool, typer.Option("--check-model", help="Refuse requests that name another model.")
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse an order of messages or a max_tokens that could be corrected.",
        envvar="LLAMA_HUB_STRICT",
        show_envvar=False,
    ),
]
ServedName = Annotated[
    str | None,
    typer.Option(
        help="Name of the model in the API.", envvar="LLAMA_HUB_SERVED_NAME", show_envvar=False
    ),
]
LogPrompts = Annotated[
    bool, typer.Option("--log-prompts", help="Write prompts into the log; never done otherwise.")
]
IdleUnload = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Load a model when it is asked for, and unload it when nobody has for so long (10m).",
        show_default="models stay loaded",
    ),
]
LoadTimeout = Annotated[
    float,
    typer.Option(help="Seconds that a request waits while its model is loaded.", min=1),
]
KvCacheBytes = Annotated[
    int | None,
    typer.Option(
        help="Bytes of the KV cache.",
        show_default="room for --max-batch, as far as the memory goes",
        min=1,
        envvar="LLAMA_HUB_KV_CACHE_BYTES",
        show_envvar=False,
    ),
]
ParseSpecial = Annotated[
    bool,
    typer.Option(
        "--parse-special/--no-parse-special",
        help="In raw prompts the names of special tokens (</s>) are those tokens.",
        envvar="LLAMA_HUB_PARSE_SPECIAL",
        show_envvar=False,
    ),
]
Moderator = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND:WHAT|POLICY.yaml",
        help="Who judges prompts and answers: words:FILE, moderations:URL, llama-guard:URL "
        "(repeat it), or a policy's file. Its key: LLAMA_HUB_MODERATOR_KEY.",
    ),
]
ModerationMode = Annotated[
    Literal["before", "parallel"] | None,
    typer.Option(
        help="Whether the prompt is judged before generation, or beside it while the answer is "
        "held back.",
        show_default="the policy's, else before",
    ),
]
AsChat = Annotated[
    bool, typer.Option("--chat", help="Chat with a base model too, in Llama 2's format.")
]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="Print the memory that would be needed, and stop.")
]
