package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Parts of the page: each has its subjects, its figures and its tables.
const (
	kernels = "kernels"
	streams = "streams"
	files   = "files"
	lab     = "lab"
)

// subject is what is measured in one go: a server in one part of the page.
type subject struct {
	part   string
	server string // as in the flag -servers, and in the page
	kernel string // kernelspec, of the part kernels
	fake   bool   // the kernel costs nothing
}

// subjects are all there are, in the order in which they take their turns. The
// servers take them with the same kernel.
var subjects = []subject{
	{kernels, "stock", fakeKernel, true},
	{kernels, "process", fakeKernel, true},
	{kernels, relay, fakeKernel, true},
	{kernels, kernelGateway, fakeKernel, true},
	{kernels, "gvisor", fakeKernel, true},
	{kernels, "stock", pythonKernel, false},
	{kernels, "process", pythonKernel, false},
	{kernels, "gvisor", imageKernel, false},
	{streams, "stock", fakeKernel, true},
	{streams, "process", fakeKernel, true},
	{streams, relay, fakeKernel, true},
	{streams, kernelGateway, fakeKernel, true},
	{streams, "gvisor", fakeKernel, true},
	{part: files, server: "stock"},
	{part: files, server: "process"},
	{part: files, server: "s3contents"},
	{part: files, server: "process-s3"},
	{part: lab, server: "stock"},
	{part: lab, server: "process"},
}

func (s subject) String() string {
	switch s.part {
	case kernels:
		return s.server + " with " + s.kernel
	case streams:
		return s.server + " with " + s.kernel + ", streams"
	}
	return s.server + ", " + s.part
}

// chosen lists the subjects of the parts and servers named, separated by commas.
func chosen(parts, servers string) (list []subject, err error) {
	part, err := among("part", parts, func(s subject) string { return s.part })
	if err != nil {
		return nil, err
	}
	server, err := among("server", servers, func(s subject) string { return s.server })
	if err != nil {
		return nil, err
	}
	for _, s := range subjects {
		if slices.Contains(part, s.part) && slices.Contains(server, s.server) {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there is nothing to measure of %s in %s", servers, parts)
	}
	return list, nil
}

// among splits a list of names, which the subjects must have.
func among(what, list string, of func(subject) string) (names []string, err error) {
	var all []string
	for _, s := range subjects {
		if !slices.Contains(all, of(s)) {
			all = append(all, of(s))
		}
	}
	names = strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("there is no %s %q: use %s", what, name, strings.Join(all, ", "))
		}
	}
	return names, nil
}

// measure takes all figures of a subject once.
func (s subject) measure(ctx context.Context, h *host, p plan, out *figures) error {
	switch s.part {
	case files:
		return s.files(ctx, h, p, out)
	case lab:
		return s.lab(ctx, h, p, out)
	case streams:
		return s.streams(ctx, h, p, out)
	}
	return s.kernels(ctx, h, p, out)
}

func (s subject) start(ctx context.Context, h *host) (*server, error) {
	switch {
	case s.server == "stock" && s.part == lab:
		return h.startLab(ctx)
	case s.server == "stock":
		return h.startStock(ctx)
	case s.server == kernelGateway:
		return h.startKernelGateway(ctx)
	case s.server == relay:
		return h.startRelay(ctx)
	case s.server == "s3contents":
		return h.startS3contents(ctx)
	case s.server == "process-s3":
		return h.startKernelgwOnS3(ctx)
	case s.part == lab:
		return h.startKernelgw(ctx, s.server, nil, "--frontend-dir", filepath.Join(h.root, ".cache", "frontend"))
	case s.server == "gvisor" && s.fake:
		store, err := h.fakeImage(ctx)
		if err != nil {
			return nil, err
		}
		return h.startKernelgw(ctx, s.server, nil, "--image-store", store, "--default-kernel", fakeKernel)
	}
	return h.startKernelgw(ctx, s.server, nil)
}
