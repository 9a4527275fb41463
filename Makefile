# kernelgw: run `make help` for what there is.
SHELL := /bin/sh
export CGO_ENABLED = 0

TOOLS := .cache/tools/bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
RUN_FLAGS ?=

.PHONY: help build image frontend run test conformance-kata soak check bench clients tools clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

build: ## build bin/kernelgw and bin/kernelagent
	@mkdir -p bin
	@go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/kernelgw ./cmd/kernelagent

$(TOOLS)/runsc: tools/gvisor/go.mod tools/gvisor/go.sum scripts/build-runsc.sh
	@scripts/build-runsc.sh
	@touch $@

image: build ## build the default image into .cache/images (once; seconds when nothing changed)
	@bin/kernelgw image build --image-store .cache/images

frontend: ## fetch the browser files of JupyterLab and Notebook into .cache/frontend
	@scripts/setup-frontend.sh

run: build image frontend $(TOOLS)/runsc ## install what is missing, start the gateway, print the URL (RUN_FLAGS="--listen ...")
	@exec bin/kernelgw serve --data-dir .cache/data --on-exit stop $(RUN_FLAGS)

tools: ## install what checks and tests need into .cache
	@scripts/setup-tools.sh

clients: ## install the real clients, a browser, nginx and the stock servers for the tests into .cache
	@scripts/setup-clients.sh
	@scripts/setup-chromium.sh
	@scripts/setup-nginx.sh

check: tools ## formatters, linters, import rules, generated docs, known vulnerabilities
	@scripts/check.sh

test: build image frontend $(TOOLS)/runsc tools clients ## everything: check, unit and race tests, real kernels, real clients
	@scripts/setup-containerd.sh
	@scripts/check.sh
	@scripts/test.sh

conformance-kata: export KERNELGW_KATA_SOCKET := $(KERNELGW_KATA_SOCKET)
conformance-kata: export KERNELGW_KATA_RUNTIME := $(KERNELGW_KATA_RUNTIME)
conformance-kata: export KERNELGW_KATA_CONFIG := $(KERNELGW_KATA_CONFIG)
conformance-kata: $(if $(KERNELGW_KATA_SOCKET),image) ## check the containerd driver on this host's Kata (KERNELGW_KATA_SOCKET=..., _RUNTIME, _CONFIG)
	@scripts/conformance-kata.sh

SOAK_CYCLES ?= 1000

soak: ## start and stop sandboxes with random writes, a thousand times (SOAK_CYCLES=n); files must be the same at the end
	@KERNELGW_SOAK_CYCLES=$(SOAK_CYCLES) go test -v -count=1 -timeout 4h -run 'Cycles|StopAndStart' ./sandboxes/agent/filesync ./contents/contentsync

bench: build image frontend $(TOOLS)/runsc clients ## measure against a stock jupyter_server, write docs/performance.md
	@scripts/setup-clients.sh s3contents kernel_gateway
	go run ./bench -o docs/performance.md

clean: ## remove bin; .cache stays (remove it by hand to start from nothing)
	rm -rf bin
