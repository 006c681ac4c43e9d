"""OpenVINO GenAI's continuous batching, asked as tests/bench/serving.py asks its systems.

Runs under an interpreter of its own: `PYTHON openvino_worker.py MODEL.gguf`.
"""

import json
import random
import resource
import sys
import time

import openvino_genai

NEW_TOKENS = 128


def main() -> None:
    config = openvino_genai.SchedulerConfig()
    config.max_num_seqs = 8
    config.cache_size = 1
    config.enable_prefix_caching = True
    config.dynamic_split_fuse = True
    pipeline = openvino_genai.ContinuousBatchingPipeline(sys.argv[1], config, "CPU")
    wanted = openvino_genai.GenerationConfig()
    wanted.max_new_tokens = wanted.min_new_tokens = NEW_TOKENS
    wanted.ignore_eos = True
    wanted.do_sample = False
    wanted.apply_chat_template = False
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        seen = run(pipeline, wanted, asked)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seen": seen, "peak": peak}), flush=True)


def run(pipeline: object, wanted: object, asked: dict) -> list[list[float]]:
    start, due = time.perf_counter(), sorted(range(len(asked["at"])), key=asked["at"].__getitem__)
    running: dict[int, object] = {}
    seen: list[list[float]] = [[] for _ in due]
    while due or running:
        now = time.perf_counter() - start
        while due and asked["at"][due[0]] <= now:
            index = due.pop(0)
            words = asked["last_words"] if index == len(asked["at"]) - 1 else asked["words"]
            text = prompt(asked["first"] + index, words)
            running[index] = pipeline.add_request(index, text, wanted)
        if running:
            pipeline.step()
        for index, handle in list(running.items()):
            if handle.can_read():
                for output in handle.read().values():
                    moment = time.perf_counter() - start - asked["at"][index]
                    seen[index] += [moment] * len(output.generated_ids)
            if len(seen[index]) >= NEW_TOKENS:
                del running[index]
    return seen


def prompt(number: int, words: int) -> str:
    """The questions of serving.py, in the template's words."""
    topics = [
        "the sea",
        "a lighthouse",
        "two brothers",
        "winter",
        "a lost key",
        "the first train",
        "a garden",
        "bees",
    ]
    dice = random.Random(number)
    filler = " ".join(
        dice.choice(
            [
                "the",
                "old",
                "ship",
                "sailed",
                "over",
                "a",
                "quiet",
                "sea",
                "while",
                "we",
                "sat",
                "and",
                "ate",
                "our",
                "bread",
            ]
        )
        for _ in range(words)
    )
    system = "You are a helpful assistant of a company. You answer in plain words and you do not invent facts."
    text = f"Tell me a very long story about {topics[number % 8]}, number {number}: {filler}"
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


if __name__ == "__main__":
    main()
