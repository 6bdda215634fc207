"""vLLM for a benchmark's row: reads work from standard input, a JSON object a line, and answers with seconds.

It runs in vLLM's own environment and imports nothing of Chatwright's.
"""

import json
import os
import sys
import time

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from vllm import LLM, SamplingParams, __version__

if __name__ == "__main__":
    engine = LLM(sys.argv[1], dtype="float32", kv_cache_memory_bytes=1 << 30, enable_prefix_caching=False)
    for line in sys.stdin:
        work = json.loads(line)
        prompts = [{"prompt_token_ids": ids} for ids in work["prompts"]]
        settings = SamplingParams(
            temperature=1.0, max_tokens=work["tokens"], ignore_eos=True, logprobs=0, detokenize=False
        )
        began = time.perf_counter()
        outputs = engine.generate(prompts, settings, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        note = f"vLLM {__version__}: compiled, float32, log-probabilities of the drawn tokens"
        print("@" + json.dumps({"seconds": seconds, "tokens": tokens, "note": note}), flush=True)
