package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The S3 server's kind, and its only bucket.
const (
	seaweed = "seaweed"
	bucket  = "bench"
)

// startSeaweed starts the SeaweedFS of .cache/venv/weed with a bucket, with or
// without versions. Whoever reaches it may do everything there, as it listens on
// this machine alone; s3contents wants to sign all the same.
func (h *host) startSeaweed(ctx context.Context, versions bool) (*server, error) {
	s, err := h.newServer(seaweed, nil)
	if err != nil {
		return nil, err
	}
	if err := s.spawnSeaweed(ctx, h); err != nil {
		return nil, s.failed(err)
	}
	// A bucket can be made once its storage has found the rest.
	err = s.ready(ctx, http.MethodPut, bucket)
	if err != nil || !versions {
		return s, err
	}
	versioning := s.base.JoinPath(bucket)
	versioning.RawQuery = "versioning"
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, versioning.String(), strings.NewReader(
		`<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>`))
	if err != nil {
		return nil, s.failed(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, s.failed(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, s.failed(fmt.Errorf("it turns versions not on: %s", resp.Status))
	}
	return s, nil
}

// Keys that SeaweedFS knows.
const (
	accessKey = "bench-access"
	secretKey = "bench-secret"
)

func (s *server) spawnSeaweed(ctx context.Context, h *host) error {
	binary := filepath.Join(h.root, ".cache", "venv", "weed", "bin", "weed")
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("there is no SeaweedFS in .cache/venv/weed: run scripts/setup-clients.sh weed")
	}
	const all = `"actions":["Admin","Read","Write","List","Tagging"]`
	identities := filepath.Join(s.dir, "s3.json")
	err := os.WriteFile(identities, []byte(`{"identities":[{"name":"bench","credentials":[{"accessKey":"`+accessKey+`","secretKey":"`+secretKey+`"}],`+
		all+`},{"name":"anonymous",`+all+`}]}`), 0o600)
	if err != nil {
		return err
	}
	data := filepath.Join(s.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	s.base = &url.URL{Scheme: "http", Host: "127.0.0.1:" + ports[3], Path: "/"}
	s.offers = []string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey}
	for _, port := range ports {
		s.leaves = append(s.leaves, "/tmp/seaweedfs-*-"+port+".sock")
		if above, err := strconv.Atoi(port); err == nil { // where it takes gRPC
			s.leaves = append(s.leaves, fmt.Sprintf("/tmp/seaweedfs-*-%d.sock", above+grpcAbove))
		}
	}
	_, err = s.start(h, binary, "server", "-dir="+data, "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
		"-master.port="+ports[0], "-volume.port="+ports[1], "-filer", "-filer.port="+ports[2], "-s3", "-s3.port="+ports[3], "-s3.port.iceberg=0", "-s3.port.lance=0",
		"-s3.config="+identities, "-master.volumeSizeLimitMB=64", "-volume.max=200", "-master.telemetry=false")
	return err
}

// startS3contents starts a jupyter_server whose files s3contents keeps on
// SeaweedFS.
func (h *host) startS3contents(ctx context.Context) (*server, error) {
	s3, err := h.startSeaweed(ctx, false)
	if err != nil {
		return nil, err
	}
	return h.startJupyter(ctx, "s3contents", "jupyter_server", s3,
		"--ServerApp.contents_manager_class=s3contents.S3ContentsManager",
		"--S3ContentsManager.endpoint_url="+strings.TrimSuffix(s3.base.String(), "/"), "--S3ContentsManager.bucket="+bucket,
		"--S3ContentsManager.access_key_id="+accessKey, "--S3ContentsManager.secret_access_key="+secretKey)
}

// startKernelgwOnS3 starts a kernelgw that keeps files on SeaweedFS.
func (h *host) startKernelgwOnS3(ctx context.Context) (*server, error) {
	s3, err := h.startSeaweed(ctx, true)
	if err != nil {
		return nil, err
	}
	return h.startKernelgw(ctx, "process", s3, "--storage", "s3",
		"--s3-endpoint", strings.TrimSuffix(s3.base.String(), "/"), "--s3-bucket", bucket)
}
