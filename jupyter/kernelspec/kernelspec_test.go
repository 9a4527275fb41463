package kernelspec

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"kernelgw/jupyter"
)

const python3 = `{"argv":["python3","-m","ipykernel_launcher","-f","{connection_file}"],"display_name":"Python 3","language":"python","metadata":{"debugger":true}}`

func file(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func TestFindTakesTheEarlierDirectoryAndNamesWhatItLeavesOut(t *testing.T) {
	fsys := fstest.MapFS{
		"a/kernels/python3/kernel.json":    file(python3),
		"a/kernels/python3/logo-64x64.png": file("png"),
		"a/kernels/README":                 file("no kernel"),
		"a/kernels/empty/logo.png":         file("png"),
		"b/kernels/python3/kernel.json":    file(`{"argv":["other"]}`),
		"b/kernels/IR-4.2/kernel.json":     file("\xef\xbb\xbf" + `{"argv":["R"],"language":null}`),
		"b/kernels/broken/kernel.json":     file(`{"argv":`),
		"b/kernels/bad name/kernel.json":   file(python3),
	}
	got, problems := Find(fsys, []string{"/missing", "/a", "/b/"})
	if len(got) != 2 {
		t.Fatalf("found %v, want python3 and ir-4.2", got)
	}
	py := got["python3"]
	if py.Dir != "/a/kernels/python3" || string(py.JSON) != python3 || py.Parsed.Language != "python" {
		t.Errorf("python3 = %+v, want the one of /a", py)
	}
	if logo, err := fs.ReadFile(py.Files, "logo-64x64.png"); err != nil || string(logo) != "png" {
		t.Errorf("logo = %q, %v", logo, err)
	}
	if got["ir-4.2"].Dir != "/b/kernels/IR-4.2" {
		t.Errorf("names are lower-case and directories are not: %+v", got["ir-4.2"])
	}
	if bytes.HasPrefix(got["ir-4.2"].JSON, []byte("\xef")) {
		t.Error("JSON keeps its byte order mark, which JSON decoders refuse")
	}
	text := errors.Join(problems...).Error()
	if len(problems) != 2 || !strings.Contains(text, "/b/kernels/broken") || !strings.Contains(text, "/b/kernels/bad name") {
		t.Errorf("problems = %v, want broken and 'bad name'", problems)
	}
}

func TestHugeKernelJSONIsRefused(t *testing.T) {
	huge := `{"argv":["x"],"metadata":"` + strings.Repeat("x", MaxJSONBytes) + `"}`
	got, problems := Find(fstest.MapFS{"d/kernels/x/kernel.json": file(huge)}, []string{"/d"})
	if len(got) != 0 || len(problems) != 1 {
		t.Errorf("got %v, problems %v; want a refusal", got, problems)
	}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, raw string
		ok        bool
	}{
		{"usual", python3, true},
		{"nulls", `{"argv":["x"],"display_name":null,"env":null,"interrupt_mode":null}`, true},
		{"message interrupt", `{"argv":["x"],"interrupt_mode":"message"}`, true},
		{"other interrupt", `{"argv":["x"],"interrupt_mode":"poke"}`, false},
		{"no argv", `{"display_name":"x"}`, false},
		{"empty argv", `{"argv":[]}`, false},
		{"argv not a list", `{"argv":"python3"}`, false},
		{"argv of numbers", `{"argv":[1]}`, false},
		{"env of lists", `{"argv":["x"],"env":{"a":[]}}`, false},
		{"list", `[]`, false},
		{"null", `null`, false},
		{"empty", ``, false},
		{"two values", `{"argv":["x"]} {}`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.raw))
			if (err == nil) != tc.ok {
				t.Errorf("Parse error = %v, want ok %v", err, tc.ok)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(python3))
	f.Add([]byte(`{"argv":null}`))
	f.Add([]byte(`{"ARGV":["x"],"argv":["y"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		spec, err := Parse(raw)
		if err == nil && len(spec.Argv) == 0 {
			t.Error("accepted a kernel without argv")
		}
		if err != nil && !cmp.Equal(spec, jupyter.Kernelspec{}) {
			t.Error("error with a value")
		}
	})
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"python3": true, "ir-4.2": true, "C++_17": false, "a_b": true, "": false, ".": false, "..": false,
		"a/b": false, "a b": false, "a\x00": false, "é": false, strings.Repeat("a", 129): false,
	} {
		if ValidName(name) != want {
			t.Errorf("ValidName(%q) = %v", name, !want)
		}
	}
}

func TestHostPathOrder(t *testing.T) {
	root := t.TempDir()
	system, venv := filepath.Join(root, "sys"), filepath.Join(root, "venv")
	for _, p := range []string{system, venv} {
		if err := os.MkdirAll(filepath.Join(p, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(system, "bin", "python3"), []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(system, "bin", "python3"), filepath.Join(venv, "bin", "python3")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(venv, "pyvenv.cfg"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	sys := filepath.Join(system, "share/jupyter")
	env := filepath.Join(venv, "share/jupyter")
	const local, share = "/usr/local/share/jupyter", "/usr/share/jupyter"
	for _, tc := range []struct {
		name string
		env  map[string]string
		want []string
	}{
		{"system python after the user", map[string]string{"HOME": "/h", "PATH": system + "/bin"}, []string{"/h/.local/share/jupyter", sys, local, share}},
		{"virtual environment before the user", map[string]string{"HOME": "/h", "PATH": venv + "/bin"}, []string{env, "/h/.local/share/jupyter", local, share}},
		{"preference off", map[string]string{"HOME": "/h", "PATH": venv + "/bin", "JUPYTER_PREFER_ENV_PATH": "0"}, []string{"/h/.local/share/jupyter", env, local, share}},
		{"JUPYTER_PATH first", map[string]string{"JUPYTER_PATH": "/x:/y/:relative", "XDG_DATA_HOME": "/xdg"}, []string{"/x", "/y", "/xdg/jupyter", local, share}},
		{"JUPYTER_DATA_DIR", map[string]string{"JUPYTER_DATA_DIR": "/data", "XDG_DATA_HOME": "/xdg", "HOME": "/h"}, []string{"/data", local, share}},
		{"nothing set", nil, []string{local, share}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := HostPath(func(k string) string { return tc.env[k] })
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("HostPath (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFindHostReadsFromDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "kernels", "python3"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kernels", "python3", "kernel.json"), []byte(python3), 0o644); err != nil {
		t.Fatal(err)
	}
	got, problems := FindHost([]string{dir})
	if len(problems) != 0 || got["python3"].Dir != filepath.Join(dir, "kernels", "python3") {
		t.Errorf("got %v, problems %v", got, problems)
	}
}
