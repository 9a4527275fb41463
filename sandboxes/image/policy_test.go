package image

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kernelgw/sandboxes"
)

func patternsOf(t testing.TB, texts ...string) []Pattern {
	t.Helper()
	var list []Pattern
	for _, text := range texts {
		p, err := ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// withPolicy opens the same store under another policy.
func withPolicy(t testing.TB, s *Store, policy *Policy) *Store {
	t.Helper()
	judged, err := Open(Options{Dir: s.Dir(), Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	return judged
}

func wantRefused(t *testing.T, err error, want ...string) {
	t.Helper()
	refused := new(RefusedError)
	if !errors.As(err, &refused) || !errors.Is(err, sandboxes.ErrInvalid) {
		t.Fatalf("error = %v, want the image refused", err)
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("refused with %q, want %q in it", err, text)
		}
	}
}

func TestImagesThatAreNotAllowedAreRefusedWithTheRule(t *testing.T) {
	host := newRegistry(t)
	img := testImage(t, v1.Config{}, []entry{specEntry("python3")})
	push(t, host+"/team/kernels:1", img)
	push(t, host+"/other/kernels:1", img)
	policy := &Policy{Allow: patternsOf(t, host+"/team/*", "default")}
	s := withPolicy(t, newStore(t), policy)
	if _, err := s.Pull(t.Context(), PullOptions{Ref: host + "/team/kernels:1"}); err != nil {
		t.Fatal(err)
	}
	other := withPolicy(t, newStore(t), policy)
	_, err := other.Pull(t.Context(), PullOptions{Ref: host + "/other/kernels:1"})
	wantRefused(t, err, "image_allow does not name "+host+"/other/kernels:1", host+"/team/*, default")
	_, err = other.Put(t.Context(), "mine", img, nil)
	wantRefused(t, err, "image_allow", "mine")
	if _, err := other.Put(t.Context(), "default", img, nil); err != nil {
		t.Error(err)
	}
}

func TestAttackRegistryThatIsNotAllowedIsNotEvenAsked(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	s := withPolicy(t, newStore(t), &Policy{Allow: patternsOf(t, "registry.example/team/*", "registry.example/x@"+digestA)})
	for _, ref := range []string{host + "/x:1", host + "/registry.example/team/x:1", host + "/x@" + digestA} {
		_, err := s.Pull(t.Context(), PullOptions{Ref: ref})
		wantRefused(t, err, "image_allow does not name")
	}
	if asked.Load() != 0 {
		t.Errorf("it was asked %d times", asked.Load())
	}
}

func TestAttackNameThatPassesForAnAllowedOne(t *testing.T) {
	host := newRegistry(t)
	push(t, host+"/evil/kernels:1", testImage(t, v1.Config{}, []entry{specEntry("python3")}))
	s := newStore(t)
	for _, name := range []string{"default", "registry.example/team/x:1"} {
		if _, err := s.Pull(t.Context(), PullOptions{Ref: host + "/evil/kernels:1", Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	local := testImage(t, v1.Config{}, []entry{specEntry("other")})
	if _, err := s.Put(t.Context(), "registry.example/team/y:1", local, nil); err != nil {
		t.Fatal(err)
	}
	judged := withPolicy(t, s, &Policy{Allow: patternsOf(t, "default", "registry.example/team/*")})
	for _, ref := range []string{"", "registry.example/team/x:1", "registry.example/team/y:1"} {
		_, err := judged.Resolve(t.Context(), ref)
		wantRefused(t, err, "image_allow does not name")
	}
}

func TestPinnedImagesAreWhatTheDigestSays(t *testing.T) {
	host := newRegistry(t)
	first := testImage(t, v1.Config{}, []entry{specEntry("first")})
	second := testImage(t, v1.Config{}, []entry{specEntry("second")})
	wanted, _ := first.Digest()
	push(t, host+"/kernels:1", first)
	s := withPolicy(t, newStore(t), &Policy{Allow: patternsOf(t, host+"/kernels@"+wanted.String())})
	if _, err := s.Pull(t.Context(), PullOptions{Ref: host + "/kernels:1"}); err != nil {
		t.Fatal(err)
	}
	push(t, host+"/kernels:1", second) // the tag moves
	_, err := s.Pull(t.Context(), PullOptions{Ref: host + "/kernels:1"})
	other, _ := second.Digest()
	wantRefused(t, err, other.String())
	for _, ref := range []string{host + "/kernels@" + wanted.String(), wanted.String(), host + "/kernels:1"} {
		if img, err := s.Resolve(t.Context(), ref); err != nil || img.Digest != wanted.String() {
			t.Errorf("Resolve(%q) = %s, %v", ref, img.Digest, err)
		}
	}
	unbound := withPolicy(t, s, nil)
	if _, err := unbound.Pull(t.Context(), PullOptions{Ref: host + "/kernels:1"}); err != nil {
		t.Fatal(err)
	}
	if img, err := s.Resolve(t.Context(), host+"/kernels@"+wanted.String()); err != nil || img.Digest != wanted.String() {
		t.Errorf("after the name moved in the store: %s, %v", img.Digest, err)
	}
	_, err = s.Resolve(t.Context(), host+"/kernels:1")
	wantRefused(t, err, other.String())
}

// verifierFunc is a Verifier of a test's own.
type verifierFunc func(sig Signature, manifest []byte) (string, error)

func (f verifierFunc) Verify(sig Signature, manifest []byte) (string, error) { return f(sig, manifest) }

func TestRulesOfSignaturesByImage(t *testing.T) {
	believed := verifierFunc(func(sig Signature, _ []byte) (string, error) {
		if string(sig.Bundle) == "good" {
			return "ann", nil
		}
		return "", errors.New("it was made by eve")
	})
	policy := &Policy{
		Verify: VerifyRequire,
		Rules: []SignatureRule{
			{Name: "image_signers[0]", Images: patternsOf(t, "default"), Verify: VerifyOff},
			{Name: "image_signers[1]", Images: patternsOf(t, "r.example/a/*"), Verify: VerifyRequire, Verifier: believed},
			{Name: "image_signers[2]", Images: patternsOf(t, "r.example/b/*"), Verify: VerifyWarn, Verifier: believed},
		},
	}
	good, bad := Signature{Found: "x", Bundle: []byte("good")}, Signature{Found: "y", Bundle: []byte("bad")}
	for name, tc := range map[string]struct {
		origin        string
		found         []Signature
		err           error
		refused, warn string
	}{
		"off":                       {origin: "default"},
		"no rule":                   {origin: "r.example/c/x:1", refused: "image_verify requires a signature: image_signers does not say who may sign it"},
		"signed":                    {origin: "r.example/a/x:1", found: []Signature{bad, good}},
		"unsigned":                  {origin: "r.example/a/x:1", refused: "image_signers[1] requires a signature: it has no signature"},
		"wrongly signed":            {origin: "r.example/a/x:1", found: []Signature{bad}, refused: "y: it was made by eve"},
		"unreadable":                {origin: "r.example/a/x:1", found: []Signature{{Found: "z", unreadable: errTooLarge}}, refused: "z: it cannot be read: it is larger than"},
		"unreadable beside another": {origin: "r.example/a/x:1", found: []Signature{{Found: "z", unreadable: errTooLarge}, good}},
		"registry fails":            {origin: "r.example/a/x:1", err: io.ErrUnexpectedEOF, refused: "its signatures cannot be read: unexpected EOF"},
		"of an index without it":    {origin: "r.example/a/x:1", found: []Signature{{Found: "x", Bundle: []byte("good"), Index: []byte(`{"manifests":[]}`)}}, refused: "of an index that does not list this image"},
		"warn, unsigned":            {origin: "r.example/b/x:1", warn: "although it has no signature"},
		"warn, signed":              {origin: "r.example/b/x:1", found: []Signature{good}},
	} {
		t.Run(name, func(t *testing.T) {
			v := policy.judge(tc.origin, []byte("{}"), false, func() ([]Signature, error) { return tc.found, tc.err })
			switch {
			case tc.refused == "" && v.Refused != nil:
				t.Errorf("refused: %v", v.Refused)
			case tc.refused != "" && (v.Refused == nil || !strings.Contains(v.Refused.Error(), tc.refused)):
				t.Errorf("refused = %v, want %q", v.Refused, tc.refused)
			}
			if got := v.Warning(); (tc.warn == "") != (got == "") || !strings.Contains(got, tc.warn) {
				t.Errorf("warning = %q, want %q", got, tc.warn)
			}
		})
	}
}

func TestRecordsGoWithTheirImages(t *testing.T) {
	s := newStore(t)
	if _, err := s.Put(t.Context(), "a", testImage(t, v1.Config{}, []entry{specEntry("python3")}), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.putArtifact(t.Context(), "sha256:"+strings.Repeat("0", 64), sbomType, []byte("{}")); !errors.Is(err, sandboxes.ErrNotFound) {
		t.Errorf("an artifact of no image: %v", err)
	}
	img, err := s.Resolve(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{`{"v":1}`, `{"v":2}`} {
		if err := s.putArtifact(t.Context(), img.Digest, sbomType, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if raw, err := s.SBOM(t.Context(), "a"); err != nil || string(raw) != `{"v":2}` {
		t.Errorf("SBOM = %s, %v", raw, err)
	}
	if entries, err := s.List(t.Context()); err != nil || len(entries) != 1 {
		t.Errorf("List = %v, %v: an artifact is no image", entries, err)
	}
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SBOM(t.Context(), "a"); err != nil {
		t.Errorf("pruned away: %v", err)
	}
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{recordDir, "blobs/sha256", "rootfs"} {
		if left, err := os.ReadDir(filepath.Join(s.Dir(), dir)); err != nil || len(left) != 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}

func TestPullAsksForTheTagOnce(t *testing.T) {
	first := testImage(t, v1.Config{}, []entry{specEntry("first")})
	second := testImage(t, v1.Config{}, []entry{specEntry("second")})
	digest, _ := first.Digest()
	backend := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var asked atomic.Int64
	moved := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		backend.ServeHTTP(w, r)
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/1") && asked.Add(1) == 1 {
			moved <- struct{}{} // the answer is on its way
		}
	}))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/kernels:1"
	push(t, ref, first)
	asked.Store(0)
	s := withPolicy(t, newStore(t), &Policy{Rules: []SignatureRule{{Verify: VerifyRequire, Verifier: verifierFunc(func(_ Signature, manifest []byte) (string, error) {
		return "", errors.New("not reached: there is no signature")
	})}}})
	_, err := s.Pull(t.Context(), PullOptions{Ref: ref})
	wantRefused(t, err, "no signature")
	<-moved
	push(t, ref, second)
	if n := asked.Load(); n != 1 {
		t.Errorf("the tag was asked for %d times", n)
	}
	if _, err := s.Resolve(t.Context(), digest.String()); !errors.Is(err, sandboxes.ErrNotFound) {
		t.Errorf("a refused image was stored: %v", err)
	}
}
