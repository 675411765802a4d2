"""llama.cpp's own HTTP server, as the package xllamacpp brings it: llama_server.py MODEL.gguf PORT
API_KEY."""

import signal
import sys

import xllamacpp

model, port, key = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.model_alias = {"tiny"}
params.hostnames = ["127.0.0.1"]
params.port = int(port)
params.api_keys = [key]
params.n_ctx = 2048
params.n_parallel = 2
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.ui = False
server = xllamacpp.Server(params)  # returns when the model is loaded; answers until the process ends
signal.pause()
