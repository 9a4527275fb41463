package s3store_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"kernelgw/contents/s3store"
)

const (
	weedBinary = "../../.cache/venv/weed/bin/weed"
	weedSkip   = "KERNELGW_TEST_SKIP_WEED"
)

// seaweed starts a SeaweedFS with a versioned bucket.
func seaweed(t *testing.T) target {
	t.Helper()
	if os.Getenv(weedSkip) != "" {
		t.Skip(weedSkip + " is set")
	}
	binary, err := filepath.Abs(weedBinary)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("no SeaweedFS: %v; run scripts/setup-clients.sh weed, or set %s=1 to do without these tests", err, weedSkip)
	}
	dir := t.TempDir()
	identities := filepath.Join(dir, "s3.json")
	if err := os.WriteFile(identities, []byte(`{"identities":[{"name":"test","credentials":[{"accessKey":"test-access","secretKey":"test-secret"}],"actions":["Admin","Read","Write","List","Tagging"]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	p := freePorts(t, 4)
	weed := exec.Command(binary, "server", "-dir="+data, "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
		"-master.port="+p[0], "-volume.port="+p[1], "-filer", "-filer.port="+p[2], "-s3", "-s3.port="+p[3], "-s3.port.iceberg=0", "-s3.port.lance=0",
		"-s3.config="+identities, "-master.volumeSizeLimitMB=64", "-volume.max=200", "-master.telemetry=false")
	weed.Dir, weed.Stdout, weed.Stderr = dir, log, log
	weed.Env = append(os.Environ(), "TMPDIR="+dir)
	weed.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := weed.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-weed.Process.Pid, syscall.SIGKILL)
		_ = weed.Wait()
		if t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("the end of SeaweedFS's log:\n%s", text[max(0, len(text)-2000):])
			}
		}
		removeSockets(p)
	})
	at := target{bucket: "kernelgw-test", access: s3store.Access{Endpoint: "http://127.0.0.1:" + p[3], AccessKey: "test-access", SecretKey: "test-secret"}}
	at.client = s3store.NewClient(at.access)
	at.makeBucket(t)
	return at
}

// makeBucket waits for a server, and makes a bucket with versioning.
func (at target) makeBucket(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, err := at.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &at.bucket})
		if err == nil {
			_, err = at.client.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
				Bucket: &at.bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
			})
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the S3 server does not come up: %v", err)
		case <-ticker.C:
		}
	}
}

// freePorts returns ports that are free, and so is each plus 10000, which
// SeaweedFS takes too.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for tries := 0; len(ports) < n && tries < 1000; tries++ {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := first.Addr().(*net.TCPAddr).Port
		defer first.Close() // so that it is not found again
		if port+10_000 > 65_535 {
			continue
		}
		second, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+10_000))
		if err != nil {
			continue
		}
		defer second.Close()
		ports = append(ports, strconv.Itoa(port))
	}
	if len(ports) < n {
		t.Fatal("not enough free ports")
	}
	return ports
}

// removeSockets removes what SeaweedFS leaves in /tmp when it is killed.
func removeSockets(ports []string) {
	for _, port := range ports {
		left, _ := filepath.Glob("/tmp/seaweedfs-*-" + port + ".sock")
		for _, path := range left {
			os.Remove(path)
		}
	}
}

// configured returns the server that the environment names, for a run against a
// real S3: KERNELGW_TEST_S3_BUCKET, _ENDPOINT, _REGION, _ACCESS_KEY, _SECRET_KEY.
func configured(t *testing.T) target {
	t.Helper()
	get := func(name string) string { return os.Getenv("KERNELGW_TEST_S3_" + name) }
	if get("BUCKET") == "" {
		t.Skip("KERNELGW_TEST_S3_BUCKET names no bucket")
	}
	at := target{bucket: get("BUCKET"), access: s3store.Access{
		Endpoint: get("ENDPOINT"), Region: get("REGION"), AccessKey: get("ACCESS_KEY"), SecretKey: get("SECRET_KEY"),
		HTTPClient: http.DefaultClient,
	}}
	at.client = s3store.NewClient(at.access)
	return at
}

func TestStoreOnSeaweedFS(t *testing.T) {
	t.Parallel()
	at := seaweed(t)
	t.Run("Contract", at.contract)
	t.Run("Behaviour", at.behaviour)
}

func TestStoreOnTheConfiguredServer(t *testing.T) {
	at := configured(t)
	t.Run("Contract", at.contract)
	t.Run("Behaviour", at.behaviour)
}
