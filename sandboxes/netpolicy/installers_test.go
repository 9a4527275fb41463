package netpolicy

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agent"
	"kernelgw/sandboxes/netpolicy/egress"
)

// The public indexes that the test plays, by the names that sandboxes may reach.
var pythonIndex, pythonFiles, npmRegistry = packageHost("pypi."), packageHost("files."), packageHost("registry.")

func packageHost(begins string) string {
	hosts := egress.PackageHosts()
	return hosts[slices.IndexFunc(hosts, func(host string) bool { return strings.HasPrefix(host, begins) })]
}

// What people type first in a notebook: the real pip and npm, in a sandbox's
// namespace with the environment that sandboxes have, install packages from indexes of this test. It plays the public ones, a private
// one that wants credentials, which are a secret, and a mirror.
func TestPackageManagersInstallThroughTheProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT CHECKED: pip and npm through the proxy: they take seconds")
	}
	fmt.Fprintln(os.Stderr, "!! NOT CHECKED: conda through the proxy: there is none here; it reads the same variables as pip")
	w := newPackageWorld(t)
	public, err := w.Acquire(t.Context(), "public", sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages, Allow: []string{"private.example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	mirrored, err := w.Acquire(t.Context(), "mirrored", sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages, Mirror: "http://10.9.9.9:3141/simple/"})
	if err != nil {
		t.Fatal(err)
	}
	python, env := python(), w.trust(t, public)
	placeholder := w.secret.Placeholder
	type run struct {
		name      string
		slot      Slot
		cmd       *exec.Cmd
		installed []string
		said      bytes.Buffer
	}
	var runs []*run
	for _, r := range []*run{
		{
			name: "pip, from the public index and a private one", slot: public, installed: []string{"tiny.py", "private_tiny.py"},
			cmd: exec.Command(python, "-m", "pip", "install", "--target", ".", "tiny", "private-tiny", "--extra-index-url", "https://user:"+placeholder+"@private.example.org/simple/"),
		},
		{
			name: "pip, from a mirror", slot: mirrored, installed: []string{"tiny.py"},
			cmd: exec.Command(python, "-m", "pip", "install", "--target", ".", "tiny"),
		},
		{
			name: "npm, from the public registry and a private one", slot: public, installed: []string{"node_modules/tiny/tiny.js", "node_modules/@private/tiny/tiny.js"},
			cmd: exec.Command("npm", "install", "--prefix", ".", "tiny", "@private/tiny",
				"--@private:registry=https://private.example.org/npm/", "--//private.example.org/npm/:_authToken="+placeholder),
		},
	} {
		if r.cmd.Err != nil {
			fmt.Fprintf(os.Stderr, "!! NOT CHECKED: %s: %v\n", r.name, r.cmd.Err)
			continue
		}
		r.cmd.Dir = t.TempDir()
		r.cmd.Env = slices.Concat(env, r.slot.Env, []string{"HOME=" + t.TempDir()})
		r.cmd.Stdout, r.cmd.Stderr = &r.said, &r.said
		if err := w.in(r.slot, r.cmd.Start); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	for _, r := range runs {
		if err := r.cmd.Wait(); err != nil {
			t.Errorf("%s: %v: %s", r.name, err, &r.said)
		}
		for _, file := range r.installed {
			if text, err := os.ReadFile(filepath.Join(r.cmd.Dir, file)); err != nil || string(text) != "tiny = 1\n" {
				t.Errorf("%s: %s: %q, %v: %s", r.name, file, text, err, &r.said)
			}
		}
		if strings.Contains(r.said.String(), w.secret.Value) {
			t.Errorf("%s: the secret's value is in the sandbox", r.name)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.denied {
		t.Errorf("refused: %+v", d)
	}
	for _, served := range []string{pythonIndex, pythonFiles, npmRegistry, "private.example.org", "10.9.9.9:3141"} {
		if w.served[served] == 0 {
			t.Errorf("%s served nothing", served)
		}
	}
}

// packageWorld is a network whose proxy finds package indexes on a host beyond
// it, at addresses that nobody is reached at from here.
type packageWorld struct {
	*Network
	certificate []byte // of the indexes, as PEM
	secret      egress.Secret

	mu     sync.Mutex
	served map[string]int // answers, by host
	denied []egress.Denial
}

const (
	publicIndex  = "52.0.0.20"
	privateIndex = "10.9.9.9"
)

func newPackageWorld(t *testing.T) *packageWorld {
	t.Helper()
	w := &packageWorld{
		secret: egress.Secret{Name: "TOKEN", Placeholder: "kgw-" + rand.Text(), Value: "value-" + rand.Text(), Hosts: []string{"private.example.org"}},
		served: map[string]int{},
	}
	// The proxy dials from where this process is.
	own, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	world := newHost(t)
	join(t, own, world)
	w.settle(t, own, world)
	pair := w.certify(t)
	w.listen(t, world, publicIndex+":443", &pair)
	w.listen(t, world, privateIndex+":3141", nil)

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.certificate)
	authority, err := egress.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	w.Network = openOn(t, own, Options{Egress: egress.Options{
		Resolver: w, Roots: roots, Authority: authority,
		Secrets: func(context.Context, string) ([]egress.Secret, error) { return []egress.Secret{w.secret}, nil },
		Audit: func(d egress.Denial) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.denied = append(w.denied, d)
		},
	}})
	return w
}

// settle gives the world its addresses, and this namespace the way there.
func (w *packageWorld) settle(t *testing.T, own, world netns.NsHandle) {
	t.Helper()
	here, err := netlink.NewHandleAt(own, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := netlink.NewHandleAt(world, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	// The other end of the pair goes with the world, a little later.
	t.Cleanup(func() {
		if link, err := netlink.LinkByName("uplink"); err == nil {
			_ = netlink.LinkDel(link)
		}
	})
	lo, err := there.LinkByName("lo")
	if err == nil {
		err = there.LinkSetUp(lo)
	}
	for _, address := range []string{publicIndex, privateIndex} {
		a := netip.MustParseAddr(address)
		if err == nil {
			err = there.AddrAdd(lo, &netlink.Addr{IPNet: network(a, 32)})
		}
		if err == nil {
			err = here.RouteAdd(&netlink.Route{Dst: network(a, 32), Gw: net.ParseIP("192.0.2.2")})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// certify makes the certificate of all indexes.
func (w *packageWorld) certify(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "package indexes"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              []string{pythonIndex, pythonFiles, npmRegistry, "private.example.org"},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	w.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (w *packageWorld) listen(t *testing.T, world netns.NsHandle, address string, pair *tls.Certificate) {
	t.Helper()
	var listener net.Listener
	err := inside(world, func() (err error) {
		listener, err = net.Listen("tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if pair != nil {
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{*pair}})
	}
	server := &http.Server{Handler: w, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
}

// LookupNetIP makes the world an egress.Resolver.
func (w *packageWorld) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr(publicIndex)}, nil
}

// ServeHTTP is all indexes.
func (w *packageWorld) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Host == "private.example.org" {
		_, password, _ := r.BasicAuth()
		if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			password = token
		}
		if password != w.secret.Value {
			rw.Header().Set("WWW-Authenticate", `Basic realm="packages"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	at := "https://" + r.Host
	if r.TLS == nil {
		at = "http://" + r.Host
	}
	switch r.URL.Path {
	case "/simple/tiny/", "/simple/private-tiny/": // PEP 503
		name := strings.ReplaceAll(path.Base(r.URL.Path), "-", "_")
		if (name == "private_tiny") != (r.Host == "private.example.org") {
			http.NotFound(rw, r)
			return
		}
		if r.Host == pythonIndex {
			at = "https://" + pythonFiles
		}
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<!DOCTYPE html><a href="%s/packages/%s-1.0-py3-none-any.whl">%[2]s-1.0-py3-none-any.whl</a>`, at, name)
	case "/packages/tiny-1.0-py3-none-any.whl":
		_, _ = rw.Write(wheel("tiny"))
	case "/packages/private_tiny-1.0-py3-none-any.whl":
		_, _ = rw.Write(wheel("private_tiny"))
	case "/tiny", "/npm/@private/tiny":
		name, sum := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/npm"), "/"), sha512.Sum512(tarball())
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"name":%q,"dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":%[1]q,"version":"1.0.0",
			"dist":{"tarball":"%s/-/tiny-1.0.0.tgz","integrity":"sha512-%s"}}}}`,
			name, at+r.URL.Path, base64.StdEncoding.EncodeToString(sum[:]))
	case "/tiny/-/tiny-1.0.0.tgz", "/npm/@private/tiny/-/tiny-1.0.0.tgz":
		_, _ = rw.Write(tarball())
	default:
		http.NotFound(rw, r)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.served[r.Host]++
}

// python returns a Python that has pip. It is not what is in the PATH, perhaps:
// that may be a script that needs this machine's environment.
func python() string {
	path, err := exec.Command("python3", "-c", "import sys, pip; print(sys.executable)").Output()
	if err != nil {
		return "python3 with pip" // which is nowhere
	}
	return strings.TrimSpace(string(path))
}

// trust returns the environment that the agent gives to what it starts, but for
// the slot's own. The certificate of the indexes is one that everybody trusts,
// outside of tests.
func (w *packageWorld) trust(t *testing.T, s Slot) []string {
	t.Helper()
	path := os.Getenv("PATH")
	for _, e := range os.Environ() { // this machine's own has no say
		name, _, _ := strings.Cut(e, "=")
		t.Setenv(name, "")
	}
	authority := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, append(w.certificate, s.Authority...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := agent.Trust(authority, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasSuffix(e, "=") })
	t.Setenv("PATH", path)
	// This machine's configuration files are not the sandbox's.
	return append(env, "PATH="+path, "PIP_CONFIG_FILE="+os.DevNull, "npm_config_globalconfig="+os.DevNull)
}

// wheel makes a package of Python.
func wheel(name string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	info := name + "-1.0.dist-info/"
	for _, f := range [][2]string{
		{name + ".py", "tiny = 1\n"},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", name + ".py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		file, err := z.Create(f[0])
		if err == nil {
			_, err = io.WriteString(file, f[1])
		}
		if err != nil {
			panic(err) // it is written to memory
		}
	}
	_ = z.Close()
	return b.Bytes()
}

// tarball makes a package of npm.
func tarball() []byte {
	var b bytes.Buffer
	packed := gzip.NewWriter(&b)
	archive := tar.NewWriter(packed)
	for _, f := range [][2]string{
		{"package/package.json", `{"name":"tiny","version":"1.0.0"}`},
		{"package/tiny.js", "tiny = 1\n"},
	} {
		err := archive.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))})
		if err == nil {
			_, err = io.WriteString(archive, f[1])
		}
		if err != nil {
			panic(err) // it is written to memory
		}
	}
	_, _ = archive.Close(), packed.Close()
	return b.Bytes()
}
