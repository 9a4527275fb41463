package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// fakeImage puts an image of the fake kernel alone into a store of the bench's
// own, so that the gvisor driver can be measured with the kernel of the others.
// It returns the store.
func (h *host) fakeImage(ctx context.Context) (store string, err error) {
	store = filepath.Join(h.dir, "images")
	if _, err := os.Stat(store); err == nil {
		return store, nil
	}
	binary, err := os.ReadFile(h.program("fakekernel"))
	if err != nil {
		return "", err
	}
	const inside = "/usr/local/bin/fakekernel"
	spec, err := kernelspec(fakeKernel, inside, "-f", "{connection_file}")
	if err != nil {
		return "", err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, file := range []struct {
		name string
		body []byte
	}{
		{inside[1:], binary},
		{"usr/local/share/jupyter/kernels/" + fakeKernel + "/kernel.json", spec},
	} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o755, Size: int64(len(file.body))}); err != nil {
			return "", err
		}
		if _, err := w.Write(file.body); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	archive := filepath.Join(h.dir, "fake.tar")
	if err := writeImage(archive, layer.Bytes()); err != nil {
		return "", fmt.Errorf("cannot write the fake kernel's image: %w", err)
	}
	pull := exec.CommandContext(ctx, filepath.Join(h.bin, "kernelgw"), "image", "pull", "docker-archive:"+archive,
		"--name", "default", "--image-store", store)
	if out, err := pull.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot store the fake kernel's image: %w\n%s", err, out)
	}
	return store, nil
}

// writeImage writes an image of one layer as docker save does.
func writeImage(path string, layer []byte) error {
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return err
	}
	tag, err := name.NewTag("bench:fake")
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, img)
}
