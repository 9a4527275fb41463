package trust

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kernelgw/sandboxes/image"
)

// kernelImage is an image with one kernelspec.
func kernelImage(t *testing.T, kernel string) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	spec := []byte(`{"argv":["python3","-f","{connection_file}"],"display_name":"x","language":"python"}`)
	if err := w.WriteHeader(&tar.Header{Name: "usr/share/jupyter/kernels/" + kernel + "/kernel.json", Mode: 0o644, Size: int64(len(spec)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(spec); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// host is a registry on the loopback address, with what a test does to its
// answers.
type host struct {
	t        *testing.T
	addr     string
	onAnswer atomic.Pointer[func(r *http.Request)] // after a request was answered
}

func newHost(t *testing.T, referrers bool) *host {
	t.Helper()
	h := &host{t: t}
	backend := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(referrers))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		backend.ServeHTTP(w, r)
		if then := h.onAnswer.Load(); then != nil {
			(*then)(r)
		}
	}))
	t.Cleanup(server.Close)
	h.addr = strings.TrimPrefix(server.URL, "http://")
	return h
}

func (h *host) push(ref string, what remote.Taggable) {
	h.t.Helper()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		h.t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(parsed, what)
	case v1.ImageIndex:
		err = remote.WriteIndex(parsed, what)
	default:
		err = remote.Put(parsed, what)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// attach adds a bundle as a referrer, as cosign does.
func (h *host) attach(repo string, to partial.Describable, sig image.Signature) {
	h.t.Helper()
	img := referrer(h.t, to, sig)
	digest, err := img.Digest()
	if err != nil {
		h.t.Fatal(err)
	}
	h.push(repo+"@"+digest.String(), img)
}

// bundleImage is an artifact manifest with a subject.
type bundleImage struct {
	v1.Image
	manifest []byte
}

func (b bundleImage) RawManifest() ([]byte, error) { return b.manifest, nil }
func (b bundleImage) Manifest() (*v1.Manifest, error) {
	return v1.ParseManifest(bytes.NewReader(b.manifest))
}
func (b bundleImage) Digest() (v1.Hash, error) { return partial.Digest(b) }
func (b bundleImage) Size() (int64, error)     { return int64(len(b.manifest)), nil }

func referrer(t *testing.T, to partial.Describable, sig image.Signature) v1.Image {
	t.Helper()
	subject, err := partial.Descriptor(to)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(sig.Bundle, bundleType))
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	m = m.DeepCopy()
	m.ArtifactType, m.Subject = bundleType, subject
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return bundleImage{img, raw}
}

func manifestOf(t *testing.T, of partial.WithRawManifest) []byte {
	t.Helper()
	raw, err := of.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// requiring is a store that takes what v believes, and nothing else.
func requiring(t *testing.T, v image.Verifier) *image.Store {
	t.Helper()
	return storeAt(t, filepath.Join(t.TempDir(), "images"), v)
}

func storeAt(t *testing.T, dir string, v image.Verifier) *image.Store {
	t.Helper()
	s, err := image.Open(image.Options{Dir: dir, Policy: &image.Policy{
		Rules: []image.SignatureRule{{Name: "image_signers[0]", Verify: image.VerifyRequire, Verifier: v}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantRefused(t *testing.T, err error, want string) {
	t.Helper()
	if refused := new(image.RefusedError); !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
		t.Errorf("error = %v, want the image refused for %q", err, want)
	}
}

func TestPullTakesSignedImagesAndRefusesOthers(t *testing.T) {
	key, public := newKey(t)
	stranger, _ := newKey(t)
	s := newSigstore(t)
	v := newVerifier(t, Options{Keys: []Key{{Name: "team.pub", PEM: public}}, Identities: team(), Root: s.root})
	soon := time.Now().Add(time.Minute)
	for _, api := range []bool{true, false} {
		for title, tc := range map[string]struct {
			sign func(h *host, repo string, img v1.Image)
			want string
		}{
			"unsigned": {func(*host, string, v1.Image) {}, "image_signers[0] requires a signature: it has no signature"},
			"by key": {func(h *host, repo string, img v1.Image) {
				h.attach(repo, img, byKey(t, key, statement(t, signPredicate, manifestOf(t, img))))
			}, ""},
			"keyless": {func(h *host, repo string, img v1.Image) {
				h.attach(repo, img, s.keyless(subject, issuer, statement(t, signPredicate, manifestOf(t, img)), soon, nil))
			}, ""},
			"by another key": {func(h *host, repo string, img v1.Image) {
				h.attach(repo, img, byKey(t, stranger, statement(t, signPredicate, manifestOf(t, img))))
			}, "another key than team.pub"},
			"by a stranger, then by the key": {func(h *host, repo string, img v1.Image) {
				h.attach(repo, img, byKey(t, stranger, statement(t, signPredicate, manifestOf(t, img))))
				h.attach(repo, img, byKey(t, key, statement(t, signPredicate, manifestOf(t, img))))
			}, ""},
			"signature of another image": {func(h *host, repo string, img v1.Image) {
				h.attach(repo, img, byKey(t, key, statement(t, signPredicate, manifestOf(t, kernelImage(t, "other")))))
			}, "of another image"},
			"oversized": {func(h *host, repo string, img v1.Image) {
				h.attach(repo, img, image.Signature{Bundle: bytes.Repeat([]byte(" "), 1<<20)})
			}, "larger than"},
			"oversized beside the key's": {func(h *host, repo string, img v1.Image) {
				h.attach(repo, img, image.Signature{Bundle: bytes.Repeat([]byte(" "), 1<<20)})
				h.attach(repo, img, byKey(t, key, statement(t, signPredicate, manifestOf(t, img))))
			}, ""},
			"older form": {func(h *host, repo string, img v1.Image) {
				h.attachSimple(repo, img, simpleByKey(t, key, simplePayload(manifestOf(t, img))))
			}, ""},
			"older form by another key": {func(h *host, repo string, img v1.Image) {
				h.attachSimple(repo, img, simpleByKey(t, stranger, simplePayload(manifestOf(t, img))))
			}, "another key than team.pub"},
		} {
			t.Run(title, func(t *testing.T) {
				h := newHost(t, api)
				h.t = t
				repo, img := h.addr+"/team/kernels", kernelImage(t, "python3")
				h.push(repo+":1", img)
				tc.sign(h, repo, img)
				store := requiring(t, v)
				got, err := store.Pull(t.Context(), image.PullOptions{Ref: repo + ":1"})
				if tc.want != "" {
					wantRefused(t, err, tc.want)
					if entries, err := store.List(t.Context()); err != nil || len(entries) != 0 {
						t.Errorf("the store has %v, %v", entries, err)
					}
					return
				}
				if err != nil || got.Verdict.Signer == "" {
					t.Fatalf("signed by %q, %v", got.Verdict.Signer, err)
				}
				if _, err := store.Resolve(t.Context(), repo+":1"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// attachSimple adds cosign's older form.
func (h *host) attachSimple(repo string, to partial.Describable, sig image.Signature) {
	h.t.Helper()
	subject, err := partial.Descriptor(to)
	if err != nil {
		h.t.Fatal(err)
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:       static.NewLayer(sig.Payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": sig.Signature},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.push(repo+":sha256-"+subject.Digest.Hex+".sig", img)
}

func TestSignatureOfTheIndexCoversItsImages(t *testing.T) {
	key, public := newKey(t)
	v := newVerifier(t, Options{Keys: []Key{{Name: "team.pub", PEM: public}}})
	h := newHost(t, true)
	repo, img := h.addr+"/multi", kernelImage(t, "python3")
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}},
	})
	h.push(repo+":1", index)
	h.attach(repo, index, byKey(t, key, statement(t, signPredicate, manifestOf(t, index))))
	store := requiring(t, v)
	got, err := store.Pull(t.Context(), image.PullOptions{Ref: repo + ":1"})
	if err != nil {
		t.Fatal(err)
	}
	if digest, _ := img.Digest(); got.Digest != digest.String() {
		t.Errorf("digest = %s, want that of the platform's image", got.Digest)
	}
	if again, err := store.Resolve(t.Context(), got.Digest); err != nil || again.Verdict.Signer != "key team.pub" {
		t.Errorf("from the store: %q, %v", again.Verdict.Signer, err)
	}
	other := newHost(t, true)
	other.push(other.addr+"/x:1", img)
	other.attach(other.addr+"/x", img, byKey(t, key, statement(t, signPredicate, manifestOf(t, index))))
	_, err = requiring(t, v).Pull(t.Context(), image.PullOptions{Ref: other.addr + "/x:1"})
	wantRefused(t, err, "of another image")
}

func TestPolicyOfTodayDecidesAboutWhatWasStoredYesterday(t *testing.T) {
	key, public := newKey(t)
	_, newPublic := newKey(t)
	h := newHost(t, true)
	repo, img := h.addr+"/kernels", kernelImage(t, "python3")
	h.push(repo+":1", img)
	h.attach(repo, img, byKey(t, key, statement(t, signPredicate, manifestOf(t, img))))
	dir := filepath.Join(t.TempDir(), "images")
	if _, err := storeAt(t, dir, newVerifier(t, Options{Keys: []Key{{Name: "old.pub", PEM: public}}})).Pull(t.Context(), image.PullOptions{Ref: repo + ":1"}); err != nil {
		t.Fatal(err)
	}
	_, err := storeAt(t, dir, newVerifier(t, Options{Keys: []Key{{Name: "new.pub", PEM: newPublic}}})).Resolve(t.Context(), repo+":1")
	wantRefused(t, err, "another key than new.pub")

	unjudged, err := image.Open(image.Options{Dir: filepath.Join(t.TempDir(), "images")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unjudged.Pull(t.Context(), image.PullOptions{Ref: repo + ":1"}); err != nil {
		t.Fatal(err)
	}
	_, err = storeAt(t, unjudged.Dir(), newVerifier(t, Options{Keys: []Key{{Name: "old.pub", PEM: public}}})).Resolve(t.Context(), repo+":1")
	wantRefused(t, err, "pull it again")
}

// Between each request of a pull and the next, the tag moves to an unsigned
// image: what is stored is what was verified, or nothing.
func TestAttackTagMovesBetweenVerifyAndPull(t *testing.T) {
	key, public := newKey(t)
	v := newVerifier(t, Options{Keys: []Key{{Name: "team.pub", PEM: public}}})
	signed, evil := kernelImage(t, "signed"), kernelImage(t, "evil")
	digest, _ := signed.Digest()
	stored := 0
	for after := range 12 {
		h := newHost(t, true)
		repo := h.addr + "/kernels"
		h.push(repo+":1", signed)
		h.push(repo+":evil", evil)
		h.attach(repo, signed, byKey(t, key, statement(t, signPredicate, manifestOf(t, signed))))
		tag, err := name.NewTag(repo + ":1")
		if err != nil {
			t.Fatal(err)
		}
		var answered atomic.Int64
		move := func(r *http.Request) {
			if r.Method == http.MethodGet && answered.Add(1) == int64(after) {
				if err := remote.Tag(tag, evil); err != nil {
					t.Error(err)
				}
			}
		}
		h.onAnswer.Store(&move)
		store := requiring(t, v)
		got, err := store.Pull(t.Context(), image.PullOptions{Ref: repo + ":1"})
		switch {
		case err != nil:
			wantRefused(t, err, "no signature") // it had moved before it was asked for
		case got.Digest != digest.String():
			t.Errorf("moved after %d answers: stored %s", after, got.Digest)
		case got.Kernelspecs["signed"].Name == "":
			t.Errorf("moved after %d answers: stored other files", after)
		default:
			stored++
		}
	}
	if stored < 6 {
		t.Errorf("only %d pulls succeeded", stored)
	}
}

func TestLocalImagesAreSignedByAFileOrAReferrer(t *testing.T) {
	key, public := newKey(t)
	v := newVerifier(t, Options{Keys: []Key{{Name: "team.pub", PEM: public}}})
	img := kernelImage(t, "python3")
	sig := byKey(t, key, statement(t, signPredicate, manifestOf(t, img)))
	plain := filepath.Join(t.TempDir(), "plain")
	if _, err := layout.Write(plain, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})); err != nil {
		t.Fatal(err)
	}
	_, err := requiring(t, v).Pull(t.Context(), image.PullOptions{Ref: "oci:" + plain})
	wantRefused(t, err, "no signature")

	elsewhere := filepath.Join(t.TempDir(), "bundle.json")
	for _, file := range []string{elsewhere, plain + ".sigstore.json"} {
		if err := os.WriteFile(file, sig.Bundle, 0o644); err != nil {
			t.Fatal(err)
		}
		opts := image.PullOptions{Ref: "oci:" + plain}
		if file == elsewhere {
			opts.Bundle = elsewhere
		}
		if _, err := requiring(t, v).Pull(t.Context(), opts); err != nil {
			t.Errorf("%s: %v", filepath.Base(file), err)
		}
	}
	with := filepath.Join(t.TempDir(), "with")
	if _, err := layout.Write(with, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: referrer(t, img, sig)}, mutate.IndexAddendum{Add: img})); err != nil {
		t.Fatal(err)
	}
	if _, err := requiring(t, v).Pull(t.Context(), image.PullOptions{Ref: "oci:" + with}); err != nil {
		t.Errorf("referrer: %v", err)
	}
}

func TestCheckSaysWhatWouldBeAdmittedAndStoresNothing(t *testing.T) {
	key, public := newKey(t)
	stranger, _ := newKey(t)
	v := newVerifier(t, Options{Keys: []Key{{Name: "team.pub", PEM: public}}})
	h := newHost(t, true)
	repo, img := h.addr+"/kernels", kernelImage(t, "python3")
	h.push(repo+":1", img)
	store := requiring(t, v)
	check := func() image.Verdict {
		verdict, err := store.CheckSignatures(t.Context(), image.PullOptions{Ref: repo + ":1"})
		if err != nil {
			t.Fatal(err)
		}
		return verdict
	}
	if got := check(); got.Refused == nil || len(got.Signatures) != 0 || got.Rule != "image_signers[0]" {
		t.Errorf("unsigned: %+v", got)
	}
	h.attach(repo, img, byKey(t, stranger, statement(t, signPredicate, manifestOf(t, img))))
	h.attach(repo, img, byKey(t, key, statement(t, signPredicate, manifestOf(t, img))))
	got := check()
	if got.Refused != nil || got.Signer != "key team.pub" || len(got.Signatures) != 2 {
		t.Errorf("signed: %+v", got)
	}
	if _, err := os.Stat(store.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the check made the store")
	}
	if _, err := store.Pull(t.Context(), image.PullOptions{Ref: repo + ":1"}); err != nil {
		t.Fatal(err)
	}
	if got := check(); got.Refused != nil || len(got.Signatures) != 1 {
		t.Errorf("stored: %+v", got)
	}
}
