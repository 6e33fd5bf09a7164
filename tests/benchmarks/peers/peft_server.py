"""One adapter behind HTTP as one would serve it today with transformers, PEFT and FastAPI.

    python tests/benchmarks/peers/peft_server.py MODEL ADAPTER HEAD PORT [--careful]

MODEL is a folder of transformers, ADAPTER one in PEFT's format, HEAD a safetensors file with
`weight` and `bias` and a `labels` list in its metadata. It knows nothing of Lamina.

What most users write: a function of FastAPI that tokenises the texts of a request, runs the model
and returns labels and scores. FastAPI runs it in its threads, several requests at a time, each a
forward of its own. `--careful` is for the user who merges the adapter into the weights and puts
requests that wait into one batch, padded to its longest text.
"""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from peft import PeftModel
from pydantic import BaseModel
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer

MOST_ROWS = 64


class Request(BaseModel):
    """What a client posts."""

    inputs: list[str]


class Classifier:
    """The model with its adapter and head."""

    def __init__(self, model: str, adapter: str, head: str, merge: bool) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        adapted: Any = PeftModel.from_pretrained(AutoModel.from_pretrained(model), adapter)
        self.model = (adapted.merge_and_unload() if merge else adapted).eval()
        with safe_open(head, framework="pt") as file:
            self.weight, self.bias = file.get_tensor("weight"), file.get_tensor("bias")
            self.labels = json.loads(file.metadata()["labels"])

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        """Label and score of each text."""
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        tokens = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][:, :, None].float()
        features = (tokens * mask).sum(dim=1) / mask.sum(dim=1)
        scores = (features @ self.weight.T + self.bias).softmax(dim=1)
        best, places = scores.max(dim=1)
        return [
            {"label": self.labels[place], "score": score}
            for place, score in zip(places.tolist(), best.tolist(), strict=True)
        ]


def plain(classifier: Classifier) -> FastAPI:
    """A forward for each request."""
    app = FastAPI()

    @app.post("/v1/predict")
    def predict(request: Request) -> dict[str, Any]:
        return {"predictions": classifier(request.inputs)}

    return app


def careful(classifier: Classifier) -> FastAPI:
    """A forward for the requests that have come in meanwhile."""
    waiting: asyncio.Queue[tuple[list[str], asyncio.Future[Any]]] = asyncio.Queue()

    async def work() -> None:
        while True:
            batch = [await waiting.get()]
            while not waiting.empty() and sum(len(texts) for texts, _ in batch) < MOST_ROWS:
                batch.append(waiting.get_nowait())
            texts = [text for each, _ in batch for text in each]
            found = await asyncio.to_thread(classifier, texts)
            for each, future in batch:
                future.set_result(found[: len(each)])
                found = found[len(each) :]

    @asynccontextmanager
    async def running(_: FastAPI) -> Any:
        task = asyncio.create_task(work())
        yield
        task.cancel()

    app = FastAPI(lifespan=running)

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting.put_nowait((request.inputs, future))
        return {"predictions": await future}

    return app


def main() -> None:
    """Serve until the process is told to end."""
    model, adapter, head, port, *options = sys.argv[1:]
    is_careful = "--careful" in options
    torch.set_num_threads(1)
    classifier = Classifier(model, adapter, head, merge=is_careful)
    app = careful(classifier) if is_careful else plain(classifier)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
