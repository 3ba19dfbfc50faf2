module greenthread.ai/hack/gpu

go 1.26
