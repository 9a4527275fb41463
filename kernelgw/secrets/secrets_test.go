package secrets_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/file"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/kernelgw/secrets"
)

var api = []string{"api.example.org"}

// logged is a log that is read.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func open(t *testing.T, store registry.Store, keeper secrets.Keeper) (*secrets.Secrets, *logged) {
	t.Helper()
	log := new(logged)
	return secrets.New(secrets.Options{Store: store, Keeper: keeper, Log: slog.New(slog.NewTextHandler(log, nil))}), log
}

func identities(t *testing.T, path string) *secrets.Identities {
	t.Helper()
	keys, err := secrets.OpenIdentities(path)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func set(t *testing.T, s *secrets.Secrets, workspace, name, value string, hosts ...string) secrets.Info {
	t.Helper()
	if len(hosts) == 0 {
		hosts = api
	}
	info, _, err := s.Set(t.Context(), workspace, name, secrets.NewValue(value), hosts, "test:ada")
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// values are what Open returns, by name.
func values(t *testing.T, s *secrets.Secrets, workspace string) map[string]string {
	t.Helper()
	list, err := s.Open(t.Context(), workspace)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, one := range list {
		all[one.Name] = one.Value.Reveal()
	}
	return all
}

func TestSecretsSurviveTheProcessAndAreOfTheirWorkspace(t *testing.T) {
	dir := t.TempDir()
	store, err := file.Open(filepath.Join(dir, "r.db"))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, store, identities(t, filepath.Join(dir, "keys")))
	info := set(t, s, "w", "API_KEY", "hunter2")
	if info.By != "test:ada" || info.Created.IsZero() || info.Changed != info.Created {
		t.Errorf("info is %+v", info)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	stored, err := os.ReadFile(filepath.Join(dir, "r.db"))
	if err != nil || strings.Contains(string(stored), "hunter2") {
		t.Errorf("the value is in the registry (%v)", err)
	}
	if store, err = file.Open(filepath.Join(dir, "r.db")); err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	s, _ = open(t, store, identities(t, filepath.Join(dir, "keys")))
	if got := values(t, s, "w"); len(got) != 1 || got["API_KEY"] != "hunter2" {
		t.Errorf("opened %v", got)
	}
	if got := values(t, s, "other"); len(got) != 0 {
		t.Errorf("another workspace has %v", got)
	}
	env, err := s.Environment(t.Context(), "w")
	if err != nil || len(env) != 1 || env["API_KEY"] != info.Placeholder {
		t.Errorf("environment %v, %v", env, err)
	}
}

func TestAChangeOrDeletionHoldsAtTheNextOpen(t *testing.T) {
	s, _ := open(t, memory.New(), identities(t, filepath.Join(t.TempDir(), "keys")))
	set(t, s, "w", "A", "1")
	set(t, s, "w", "B", "2")
	for range 2 { // the second time from memory
		if got := values(t, s, "w"); got["A"] != "1" || got["B"] != "2" {
			t.Errorf("opened %v", got)
		}
	}
	set(t, s, "w", "A", "3")
	if got := values(t, s, "w"); got["A"] != "3" {
		t.Errorf("after a change opened %v", got)
	}
	for _, name := range []string{"A", "B"} {
		if err := s.Delete(t.Context(), "w", name); err != nil {
			t.Fatal(err)
		}
	}
	if got := values(t, s, "w"); len(got) != 0 {
		t.Errorf("after a deletion opened %v", got)
	}
	if err := s.Delete(t.Context(), "w", "A"); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("second deletion: %v", err)
	}
	// Versions go on: what is made now is not taken for what was opened before.
	set(t, s, "w", "A", "4")
	if got := values(t, s, "w"); len(got) != 1 || got["A"] != "4" {
		t.Errorf("made anew opened %v", got)
	}
}

// Whoever can write the registry, but has no key, can move, rename and redirect
// what is encrypted. None of that opens.
func TestARecordThatWasMovedOrRedirectedDoesNotOpen(t *testing.T) {
	type document struct {
		Secrets map[string]map[string]any `json:"secrets"`
	}
	for attack, tamper := range map[string]func(d *document) (workspace string){
		"another workspace": func(*document) string { return "mallorys" },
		"another name": func(d *document) string {
			d.Secrets["OTHER"] = d.Secrets["API_KEY"]
			delete(d.Secrets, "API_KEY")
			return "w"
		},
		"another host": func(d *document) string { d.Secrets["API_KEY"]["hosts"] = []string{"evil.example.org"}; return "w" },
		"one more host": func(d *document) string {
			d.Secrets["API_KEY"]["hosts"] = []string{api[0], "evil.example.org"}
			return "w"
		},
		"another placeholder": func(d *document) string { d.Secrets["API_KEY"]["placeholder"] = "kgw-secret-known"; return "w" },
		"no ciphertext":       func(d *document) string { d.Secrets["API_KEY"]["sealed"] = ""; return "w" },
		"another ciphertext":  func(d *document) string { d.Secrets["API_KEY"]["sealed"] = d.Secrets["SECOND"]["sealed"]; return "w" },
	} {
		t.Run(attack, func(t *testing.T) {
			store := memory.New()
			s, log := open(t, store, identities(t, filepath.Join(t.TempDir(), "keys")))
			set(t, s, "w", "API_KEY", "hunter2")
			set(t, s, "w", "SECOND", "second1")
			record, err := store.Get(t.Context(), registry.Secrets, "w")
			if err != nil {
				t.Fatal(err)
			}
			var d document
			if err := json.Unmarshal(record.Value, &d); err != nil {
				t.Fatal(err)
			}
			record.ID = tamper(&d)
			if record.Value, err = json.Marshal(d); err != nil {
				t.Fatal(err)
			}
			if record.ID != "w" {
				record.Version = 0
			}
			if _, err := store.Put(t.Context(), record); err != nil {
				t.Fatal(err)
			}
			got := values(t, s, record.ID)
			if _, ok := got["API_KEY"]; ok || got["OTHER"] != "" {
				t.Errorf("opened %v", got)
			}
			if record.ID == "w" && got["SECOND"] != "second1" {
				t.Errorf("the other secret does not open either: %v", got)
			}
			said := log.String()
			if !strings.Contains(said, "a secret does not open") || strings.Contains(said, "hunter2") || strings.Contains(said, "second1") {
				t.Errorf("the log says %q", said)
			}
			// Asked again at once, as a kernel can make the proxy do, it says no more.
			values(t, s, record.ID)
			if log.String() != said {
				t.Error("each request is logged")
			}
			// Set again, it works.
			set(t, s, record.ID, "API_KEY", "hunter3")
			if got := values(t, s, record.ID); got["API_KEY"] != "hunter3" {
				t.Errorf("set again opened %v", got)
			}
		})
	}
}

func TestDamagedRecordIsNamedAndNotOverwritten(t *testing.T) {
	store := memory.New()
	s, _ := open(t, store, identities(t, filepath.Join(t.TempDir(), "keys")))
	for _, damage := range []string{`null`, `{`, `{"secrets": 1}`, `{}`} {
		current, _ := store.Get(t.Context(), registry.Secrets, "w")
		if _, err := store.Put(t.Context(), registry.Record{Kind: registry.Secrets, ID: "w", Version: current.Version, Value: []byte(damage)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(t.Context(), "w"); err == nil || !strings.Contains(err.Error(), "workspace w in the registry are damaged") {
			t.Errorf("%s: Open: %v", damage, err)
		}
		if _, _, err := s.Set(t.Context(), "w", "A", secrets.NewValue("v"), api, "x"); err == nil {
			t.Errorf("%s was overwritten", damage)
		}
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	s, _ := open(t, memory.New(), identities(t, filepath.Join(t.TempDir(), "keys")))
	var writing sync.WaitGroup
	for i := range 8 {
		writing.Go(func() {
			if _, _, err := s.Set(t.Context(), "w", fmt.Sprintf("KEY_%d", i), secrets.NewValue(fmt.Sprint(i)), api, "x"); err != nil {
				t.Error(err)
			}
			if _, err := s.Open(t.Context(), "w"); err != nil {
				t.Error(err)
			}
		})
	}
	writing.Wait()
	got := values(t, s, "w")
	for i := range 8 {
		if got[fmt.Sprintf("KEY_%d", i)] != fmt.Sprint(i) {
			t.Errorf("opened %v", got)
		}
	}
}

func TestRotationTheLastKeySealsAndAllOpen(t *testing.T) {
	path, store := filepath.Join(t.TempDir(), "keys"), memory.New()
	s, _ := open(t, store, identities(t, path))
	set(t, s, "w", "OLD", "1")
	set(t, s, "x", "OLD", "2")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// As an operator does: age-keygen >> keys. A classic key does as well.
	newest, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s# newer\n%s\n", old, newest), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := identities(t, path)
	if !keys.Rotating() {
		t.Error("two keys are not told from one")
	}
	s, _ = open(t, store, keys)
	set(t, s, "w", "NEW", "3")
	if got := values(t, s, "w"); got["OLD"] != "1" || got["NEW"] != "3" {
		t.Errorf("after the rotation opened %v", got)
	}
	if n, err := s.Reseal(t.Context()); err != nil || n != 3 {
		t.Errorf("Reseal = %d, %v", n, err)
	}
	// Now the old key can go.
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s\n", newest), 0o600); err != nil {
		t.Fatal(err)
	}
	keys = identities(t, path)
	if keys.Rotating() {
		t.Error("one key is taken for two")
	}
	s, _ = open(t, store, keys)
	if got := values(t, s, "w"); got["OLD"] != "1" || got["NEW"] != "3" {
		t.Errorf("without the old key opened %v", got)
	}
	if got := values(t, s, "x"); got["OLD"] != "2" {
		t.Errorf("without the old key opened %v", got)
	}
}

func TestWithoutTheirKeySecretsAreListedAndCanBeSetAgain(t *testing.T) {
	path, store := filepath.Join(t.TempDir(), "keys"), memory.New()
	s, _ := open(t, store, identities(t, path))
	before := set(t, s, "w", "API_KEY", "hunter2")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s, log := open(t, store, identities(t, path))
	if got := values(t, s, "w"); len(got) != 0 || !strings.Contains(log.String(), "there are no keys") {
		t.Errorf("opened %v, log %s", got, log)
	}
	if n, err := s.Reseal(t.Context()); err != nil || n != 0 {
		t.Errorf("Reseal = %d, %v", n, err)
	}
	if list, err := s.List(t.Context(), "w"); err != nil || len(list) != 1 {
		t.Errorf("List = %v, %v", list, err)
	}
	if after := set(t, s, "w", "API_KEY", "hunter3"); after.Placeholder != before.Placeholder {
		t.Error("kernels that run have another placeholder")
	}
	if got := values(t, s, "w"); got["API_KEY"] != "hunter3" {
		t.Errorf("set again opened %v", got)
	}
}

// failing is a KMS with an outage.
type failing struct {
	secrets.Keeper
	mu  sync.Mutex
	err error
}

func (f *failing) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *failing) Seal(ctx context.Context, plain []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	return f.Keeper.Seal(ctx, plain)
}

func (f *failing) Open(ctx context.Context, sealed []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	return f.Keeper.Open(ctx, sealed)
}

func TestAFailureOfTheKeeperChangesNothing(t *testing.T) {
	store := memory.New()
	kms := &failing{Keeper: identities(t, filepath.Join(t.TempDir(), "keys"))}
	s, _ := open(t, store, kms)
	set(t, s, "w", "API_KEY", "hunter2")
	kms.fail(errors.New("the KMS does not answer"))
	if _, _, err := s.Set(t.Context(), "w", "API_KEY", secrets.NewValue("hunter3"), api, "x"); err == nil || strings.Contains(err.Error(), "hunter3") {
		t.Errorf("Set: %v", err)
	}
	kms.fail(nil)
	if got := values(t, s, "w"); got["API_KEY"] != "hunter2" {
		t.Errorf("opened %v", got)
	}
}

func TestKeysAreMadeOnceForTheirOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	keys := identities(t, path)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("keys were made before there is a secret: %v", err)
	}
	var sealing sync.WaitGroup
	all := []*secrets.Identities{keys, keys, identities(t, path), identities(t, path)}
	sealed := make([][]byte, len(all))
	for i, k := range all { // of two processes
		sealing.Go(func() {
			var err error
			if sealed[i], err = k.Seal(t.Context(), []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	sealing.Wait()
	again := identities(t, path)
	for _, s := range sealed {
		if plain, err := again.Open(t.Context(), s); err != nil || string(plain) != "x" {
			t.Errorf("what one of them sealed does not open: %v", err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestKeysThatCannotBeTrustedAreRefusedAndKept(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		content, want string
		mode          os.FileMode
	}{
		"readable by others": {"# nothing\n", "chmod 600", 0o644},
		"readable by group":  {"# nothing\n", "chmod 600", 0o640},
		"empty":              {"", "damaged", 0o600},
		"torn":               {"AGE-SECRET-KEY-1QQQQQQQQQ", "damaged", 0o600},
		"of something else":  {"-----BEGIN OPENSSH PRIVATE KEY-----\n", "damaged", 0o600},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := secrets.OpenIdentities(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "QQQ") {
			t.Errorf("%s: %v", name, err)
		}
		if kept, _ := os.ReadFile(path); string(kept) != c.content {
			t.Errorf("%s: overwritten", name)
		}
	}
}

// However it is printed, in whatever it is nested.
func TestAValueDoesNotShow(t *testing.T) {
	v := secrets.NewValue("hunter2")
	nested := struct {
		name   string
		value  secrets.Value
		ptr    *secrets.Value
		list   []secrets.Value
		byName map[string]secrets.Value
	}{"n", v, &v, []secrets.Value{v}, map[string]secrets.Value{"x": v}}
	secret := secrets.Secret{Name: "N", Value: v}
	var said strings.Builder
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		for _, what := range []any{v, &v, nested, &nested, secret, &secret, []any{v}, []secrets.Secret{secret}} {
			fmt.Fprintf(&said, format+"\n", what)
		}
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&said, nil), slog.NewJSONHandler(&said, nil)} {
		slog.New(handler).Info("x", "value", v, "secret", secret, "nested", nested, "group", slog.GroupValue(slog.Any("v", v)))
	}
	text, err := json.Marshal([]any{v, secret, map[string]any{"v": v}})
	if err != nil {
		t.Fatal(err)
	}
	said.Write(text)
	func() {
		defer func() { fmt.Fprintf(&said, "%v %+v", recover(), recover()) }()
		panic(v)
	}()
	if i := strings.Index(said.String(), "hunter2"); i >= 0 {
		t.Errorf("it shows: …%s…", said.String()[max(0, i-80):i+10])
	}
	for _, hex := range []string{"68756e74657232", "68 75 6e"} {
		if strings.Contains(said.String(), hex) {
			t.Error("it shows in hexadecimal")
		}
	}
	if v.Reveal() != "hunter2" || (secrets.Value{}).Reveal() != "" {
		t.Error("Reveal does not tell it")
	}
}

// A process that crashes with a value in its hands writes a trace.
func TestACrashDoesNotShowAValue(t *testing.T) {
	if text := os.Getenv("SECRETS_TEST_CRASH"); text != "" {
		crash(secrets.Secret{Name: "N", Value: secrets.NewValue(text)})
	}
	for _, how := range []string{"value", "secret"} {
		command := exec.Command(os.Args[0], "-test.run=TestACrashDoesNotShowAValue")
		command.Env = append(os.Environ(), "SECRETS_TEST_CRASH="+how+"-hunter2", "GOTRACEBACK=system")
		said, err := command.CombinedOutput()
		if err == nil || !strings.Contains(string(said), "panic: ") || strings.Contains(string(said), "hunter2") {
			t.Errorf("%v: %s", err, said)
		}
	}
}

//go:noinline
func crash(s secrets.Secret) {
	if strings.HasPrefix(s.Value.Reveal(), "value") {
		panic(s.Value)
	}
	panic(s)
}

func TestTimesOfASecretAreItsOwn(t *testing.T) {
	s, _ := open(t, memory.New(), identities(t, filepath.Join(t.TempDir(), "keys")))
	first := set(t, s, "w", "A", "1")
	second := set(t, s, "w", "A", "2")
	if second.Created != first.Created || second.Changed.Before(first.Changed) {
		t.Errorf("first %+v, then %+v", first, second)
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"API_KEY", "PATH", "ld_preload", "https_PROXY", "A=B", "A\x00", "_", "Ä", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if err := secrets.CheckName(name); err != nil {
			if !errors.Is(err, secrets.ErrInvalid) {
				t.Fatalf("CheckName(%q): %v", name, err)
			}
			return
		}
		upper := strings.ToUpper(name)
		if name == "" || len(name) > 100 || strings.ContainsAny(name, "=\x00 \n/$`\"'") || upper == "PATH" ||
			strings.HasPrefix(upper, "LD_") || strings.HasPrefix(upper, "PYTHON") || strings.HasSuffix(upper, "_PROXY") {
			t.Fatalf("CheckName(%q) passes", name)
		}
	})
}
