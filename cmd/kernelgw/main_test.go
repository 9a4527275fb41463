package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"kernelgw/kernelgw/secrets"
)

var update = flag.Bool("update", false, "write generated documents")

// kernelgw runs a command line and returns what it printed.
func runCommand(t *testing.T, env map[string]string, args ...string) (stdout string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	err = run(context.Background(), args, func(name string) string { return env[name] }, &out, &errOut)
	return out.String(), err
}

func writeConfig(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kernelgw.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// someStorage is valid.
var someStorage = StorageConfig{
	Storage: "embedded", MaxFile: 1 << 30, KeepVersions: time.Hour, KeepHourly: time.Hour, KeepDaily: time.Hour, KeepTrash: time.Hour,
}

var someHash = strings.Repeat("ab", 32)

func TestFlagWinsOverEnvironmentWinsOverFile(t *testing.T) {
	path := writeConfig(t, "memory: 1GiB\ndefault_kernel: file\nbase_url: /file/\nallow_origin: [\"https://a.example\", \"https://b.example\"]\nmetrics_public: true\n")
	t.Setenv("KERNELGW_DEFAULT_KERNEL", "environment")
	t.Setenv("KERNELGW_BASE_URL", "/environment/")
	env := map[string]string{"KERNELGW_DEFAULT_KERNEL": "environment", "KERNELGW_BASE_URL": "/environment/"}
	out, err := runCommand(t, env, "config", "print", "--config", path, "--base-url", "/flag")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"memory: 1GiB\n", "default_kernel: environment\n", "base_url: /flag/\n", "https://b.example\n", "metrics_public: true\n", "processes: 512\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestPrintedConfigurationCanBeReadAgainAndHoldsNoToken(t *testing.T) {
	secret := "s3cr3t-s3cr3t-s3cr3t"
	out, err := runCommand(t, nil, "config", "print", "--token", secret, "--metrics-token", secret, "--admin-token", secret)
	if err != nil || strings.Contains(out, secret) || !strings.Contains(out, "[not shown]") {
		t.Fatalf("err %v, printed:\n%s", err, out)
	}
	path := writeConfig(t, "users:\n- name: alice\n  token_sha256: ["+someHash+"]\nimage_signers:\n- images: [default]\n  verify: \"off\"\n")
	first, err := runCommand(t, nil, "config", "print", "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"name: alice", "verify: \"off\""} {
		if !strings.Contains(first, want) {
			t.Errorf("%q is not in\n%s", want, first)
		}
	}
	second, err := runCommand(t, nil, "config", "print", "--config", writeConfig(t, first))
	if err != nil || first != second {
		t.Errorf("%v: %s", err, cmp.Diff(first, second))
	}
}

func TestWrongConfigurationIsNamedWithItsRemedy(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		env  map[string]string
		args []string
		want []string
	}{
		"unknown key":         {file: "lissten: x\n", want: []string{`unknown key "lissten"`, "config print"}},
		"flag of doctor":      {file: "json: true\n", want: []string{`unknown key "json"`}},
		"flag of image build": {file: "name: mine\n", want: []string{`unknown key "name"`}},
		"not YAML":            {file: "a: [b\n", want: []string{"cannot read configuration file"}},
		"listen":              {args: []string{"--listen", "8888"}, want: []string{"listen", "127.0.0.1:8888"}},
		"base URL":            {args: []string{"--base-url", "prefix"}, want: []string{"base_url", "/prefix/"}},
		"half of TLS":         {args: []string{"--tls-cert", "x"}, want: []string{"tls_cert, tls_key"}},
		"origin with a path":  {args: []string{"--allow-origin", "https://a.example/x"}, want: []string{"allow_origin"}},
		"origin in capitals":  {args: []string{"--allow-origin", "https://A.example"}, want: []string{"allow_origin", "lower case"}},
		"proxy":               {args: []string{"--trusted-proxies", "ten"}, want: []string{"trusted_proxies"}},
		"memory":              {args: []string{"--memory", "lots"}, want: []string{"lots", "2GiB"}},
		"memory unit":         {args: []string{"--memory", "2GX"}, want: []string{"unknown unit"}},
		"too little memory":   {args: []string{"--memory", "1MiB"}, want: []string{"memory", "64MiB"}},
		"driver":              {args: []string{"--driver", "docker"}, want: []string{"driver", "gvisor"}},
		"user without token":  {file: "users: [{name: a}]\n", want: []string{"users[0].token_sha256", "token new"}},
		"token, not its hash": {file: "users: [{name: a, token_sha256: [secret]}]\n", want: []string{"users[0].token_sha256", "hash"}},
		"key of a user":       {file: "users: [{name: a, token_sha256: [" + someHash + "], workspace: [team]}]\n", want: []string{"workspace"}},
		"one token for two": {
			file: "users: [{name: a, token_sha256: [" + someHash + "]}, {name: b, token_sha256: [" + someHash + "]}]\n", want: []string{"users"},
		},
		"token of digits":    {file: "token: 12345678901234567890\n", want: []string{"token", "quotes"}},
		"token with a space": {args: []string{"--token", "a b"}, want: []string{"token", "spaces"}},
		"a map for a text":   {file: "image: {a: b}\n", want: []string{"image"}},
		"user twice": {
			file: "users: [{name: a, token_sha256: [" + someHash + "]}, {name: a, token_sha256: [" + someHash + "]}]\n",
			want: []string{"users"},
		},
		"workspace": {
			file: "users: [{name: a, token_sha256: [" + someHash + "], workspaces: [../b]}]\n", want: []string{"users"},
		},
		"token beside users": {
			file: "users: [{name: a, token_sha256: [" + someHash + "]}]\n", args: []string{"--token", "x"}, want: []string{"token", "single user"},
		},
		"s3 without a bucket":     {args: []string{"--storage", "s3"}, want: []string{"s3_bucket"}},
		"bucket without s3":       {args: []string{"--s3-bucket", "b"}, want: []string{"s3_bucket", "storage: s3"}},
		"endpoint without scheme": {args: []string{"--storage", "s3", "--s3-bucket", "b", "--s3-endpoint", "s3.example.org"}, want: []string{"s3_endpoint", "https://"}},
		"prefix without a slash":  {args: []string{"--storage", "s3", "--s3-bucket", "b", "--s3-prefix", "a"}, want: []string{"s3_prefix", "slash"}},
		"quota":                   {args: []string{"--quota", "much"}, want: []string{"much", "2GiB"}},
		"ignored path":            {args: []string{"--sync-ignore", "a/b"}, want: []string{"sync_ignore"}},
		"no time":                 {args: []string{"--keep-trash", "0s"}, want: []string{"keep_trash", "1m"}},
		"no time for output":      {args: []string{"--keep-output", "1s"}, want: []string{"keep_output", "1m"}},
		"no room for output":      {args: []string{"--max-output-log", "1MiB"}, want: []string{"max_output_log", "64MiB"}},
		"terminals end at once":   {args: []string{"--terminal-linger", "0s"}, want: []string{"terminal_linger", "1s"}},
		"overrides not there":     {args: []string{"--settings-overrides", "/nonexistent.json"}, want: []string{"settings_overrides", "/nonexistent.json"}},
		"overrides no object":     {args: []string{"--settings-overrides", "testdata/list.json"}, want: []string{"settings_overrides", "JSON object like", "theme"}},
		"page config no JSON":     {args: []string{"--page-config", "main_test.go"}, want: []string{"page_config", "JSON object like"}},
		"page config null":        {args: []string{"--page-config", "testdata/null.json"}, want: []string{"page_config", "JSON object like"}},
		"page config empty":       {args: []string{"--page-config", "/dev/null"}, want: []string{"page_config", "JSON object like"}},
		"CSS without end":         {args: []string{"--custom-css", "/dev/zero"}, want: []string{"custom_css", "larger than"}},
		"token file":              {env: map[string]string{"JUPYTER_TOKEN_FILE": "/nonexistent"}, want: []string{"JUPYTER_TOKEN_FILE"}},
		"config file":             {args: []string{"--config", "/nonexistent.yaml"}, want: []string{"/nonexistent.yaml"}},
		"no file name":            {args: []string{"--config"}, want: []string{"--config", "name the file"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"config", "check"}, c.args...)
			if c.file != "" {
				args = append(args, "--config", writeConfig(t, c.file))
			}
			_, err := runCommand(t, c.env, args...)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not hold %q", err, want)
				}
			}
		})
	}
}

func TestKeyWithoutAValueIsAsIfItWereNotThere(t *testing.T) {
	out, err := runCommand(t, nil, "config", "print", "--config", writeConfig(t, "token:\nimage:\ndata_dir:\nlisten:\n"))
	if err != nil || strings.Contains(out, "nil") || !strings.Contains(out, "\ntoken: \"\"\n") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestUserWithoutWorkspacesHasOneOfItsName(t *testing.T) {
	path := writeConfig(t, "users: [{name: alice@example.org, token_sha256: ["+strings.ToUpper(someHash)+"]}]\n")
	if out, err := runCommand(t, nil, "config", "check", "--config", path); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTokenOfJupytersConventions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		flag string
		want string
	}{
		"JUPYTER_TOKEN":      {env: map[string]string{"JUPYTER_TOKEN": "a"}, want: "a"},
		"KG_AUTH_TOKEN":      {env: map[string]string{"KG_AUTH_TOKEN": "b"}, want: "b"},
		"JUPYTER_TOKEN_FILE": {env: map[string]string{"JUPYTER_TOKEN_FILE": file}, want: "from-file"},
		"the flag wins":      {env: map[string]string{"JUPYTER_TOKEN": "a"}, flag: "c", want: "c"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{Listen: ":0", BaseURL: "/", Token: c.flag, Processes: 512, Memory: 1 << 30, Disk: 1 << 30, MaxSockets: 1, MaxTerminals: 1, TerminalIdle: 1, TerminalLinger: time.Second, StorageConfig: someStorage, IsolationConfig: IsolationConfig{NetworkSubnet: "10.143.0.0/16"}}
			file, err := loadFile("", nil)
			if err != nil {
				t.Fatal(err)
			}
			err = config.complete(&environment{getenv: func(n string) string { return c.env[n] }, file: file})
			if err != nil || config.Token != c.want {
				t.Errorf("token = %q, %v; want %q", config.Token, err, c.want)
			}
		})
	}
}

func TestNewTokenAndItsHashBelongTogether(t *testing.T) {
	out, err := runCommand(t, nil, "token", "new")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(out)
	hash := fields[len(fields)-1]
	if b, err := hex.DecodeString(hash); err != nil || len(b) != 32 || strings.Count(out, "\n") != 2 {
		t.Errorf("printed:\n%s", out)
	}
}

func TestKeptTokenStaysTheSameOverRestarts(t *testing.T) {
	dir := t.TempDir()
	first, second := Config{DataDir: dir}, Config{DataDir: dir}
	if err := first.keepToken(); err != nil {
		t.Fatal(err)
	}
	if err := second.keepToken(); err != nil || second.Token != first.Token || len(first.Token) < 32 {
		t.Errorf("tokens %q and %q, %v", first.Token, second.Token, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", info.Mode(), err)
	}
}

func TestTakenDefaultPortMovesOnButANamedOneFails(t *testing.T) {
	first, err := listen(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := listen(t.Context(), "")
	if err != nil {
		t.Fatalf("the next port: %v", err)
	}
	defer second.Close()
	if _, err := listen(t.Context(), second.Addr().String()); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("a taken address: %v", err)
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]ByteSize{
		"0": 0, "1024": 1024, "2GiB": 2 << 30, "1.5 MiB": 3 << 19, "1GB": 1e9, "7kb": 7000, "3TiB": 3 << 40,
	} {
		var got ByteSize
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q = %d, %v; want %d", text, got, err, want)
		}
		printed, _ := got.MarshalText()
		var again ByteSize
		if err := again.UnmarshalText(printed); err != nil || again != got {
			t.Errorf("%q printed as %q reads as %d, %v", text, printed, again, err)
		}
	}
}

func FuzzByteSize(f *testing.F) {
	for _, seed := range []string{"1GiB", "99999999999999999999TiB", "-1", "1e9", "0x10", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var size ByteSize
		if size.UnmarshalText([]byte(text)) == nil && size < 0 {
			t.Errorf("%q is negative: %d", text, size)
		}
	})
}

func TestConfigDocIsUpToDate(t *testing.T) {
	var cli CLI
	parser, err := kong.New(&cli, kong.Name("kernelgw"), kong.DefaultEnvars("KERNELGW"), vars(os.Getenv))
	if err != nil {
		t.Fatal(err)
	}
	var doc string
	for _, node := range parser.Model.Children {
		if node.Name == "serve" {
			doc = configDoc(node)
		}
	}
	const path = "../../docs/config.md"
	if *update {
		if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(path)
	if err != nil || cmp.Diff(string(kept), doc) != "" {
		t.Errorf("docs/config.md is stale (%v); run go test ./cmd/kernelgw -run TestConfigDoc -update\n%s", err, cmp.Diff(string(kept), doc))
	}
}

func TestRotatedSecretsOpenWithTheOldKeyAndTheNew(t *testing.T) {
	dir := t.TempDir()
	var before string
	for n := 1; n <= 3; n++ {
		out, err := runCommand(t, nil, "secrets", "rotate", "--data-dir", dir)
		if err != nil || !strings.Contains(out, "restart the gateway") {
			t.Fatalf("%v: %s", err, out)
		}
		content, err := os.ReadFile(filepath.Join(dir, "secrets.keys"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(content), before) || strings.Count(string(content), "\nAGE-SECRET-KEY-") != n {
			t.Fatalf("after %d rotations:\n%s", n, content)
		}
		before = string(content)
	}
	keys, err := secrets.OpenIdentities(filepath.Join(dir, "secrets.keys"))
	if err != nil || !keys.Rotating() {
		t.Errorf("%v: there are several keys", err)
	}
}
