// Package cmd holds the programs. The tests here are about the repository as a
// whole: who imports whom, and that the documents keep up.
package cmd_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "kernelgw"

// layer says what packages may import, and why not more.
type layer struct {
	packages string   // one package, or "tree/..." for a package and all below it
	ours     []string // packages of ours that it may import, in the same form; "..." is all
	tests    []string // packages of ours that its tests may import besides
	stdlib   bool     // outside of ours, the standard library only; tests may use testing libraries
	support  bool     // only tests, and other such packages, may import it
	why      string
}

// layers are the import rules of docs/architecture.md. The first that matches a
// package is its rule.
var layers = []layer{
	{packages: "jupyter", stdlib: true, why: "the protocol knows nothing of ours, and needs only the standard library"},
	{packages: "jupyter/kernelspec", ours: []string{"jupyter"}, stdlib: true, why: "kernelspecs are files of the Jupyter protocol"},
	{packages: "jupyter/outputs", ours: []string{"jupyter"}, stdlib: true, why: "what a notebook keeps of a cell is the Jupyter protocol, without a kernel or a server"},
	{packages: "jupyter/rest", ours: []string{"jupyter"}, stdlib: true, why: "REST types are the Jupyter protocol, without a server"},
	{packages: "jupyter/wsproto", ours: []string{"jupyter"}, why: "encodings know messages and nothing else"},
	{packages: "jupyter/zmq", ours: []string{"jupyter"}, tests: []string{"jupyter/jupytertest"}, why: "sockets know messages and nothing else"},
	{packages: "jupyter/jupytertest/...", ours: []string{"jupyter", "jupyter/jupytertest/..."}, tests: []string{"jupyter/zmq"}, support: true, why: "the fake kernel is independent of what is tested with it"},

	{packages: "auth", stdlib: true, why: "who may do what is decided without the rest"},
	{packages: "auth/token", ours: []string{"auth", "kernelgw/registry"}, tests: []string{"..."}, why: "an authenticator knows the records of logins and nothing of kernels"},

	{packages: "sandboxes", stdlib: true, why: "the contract of drivers needs nobody"},
	{packages: "sandboxes/agentapi", ours: []string{"jupyter"}, why: "the agent's contract is shared by the agent and the gateway, and drags in neither"},
	{packages: "sandboxes/agent/eventlog", why: "the event log holds bytes and numbers"},
	{packages: "sandboxes/agent/outputlog", ours: []string{"sandboxes/agentapi"}, why: "what is printed is text in parts, whoever printed it and wherever it goes"},
	{packages: "sandboxes/agent/terminal", why: "terminals know shells and WebSockets, and nothing of the agent"},
	{
		packages: "sandboxes/agent", ours: []string{"jupyter", "jupyter/outputs", "jupyter/wsproto", "jupyter/zmq", "sandboxes/agentapi", "sandboxes/agent/eventlog", "sandboxes/agent/filesync", "sandboxes/agent/outputlog", "sandboxes/agent/terminal"},
		tests: []string{"jupyter/jupytertest"}, why: "the agent runs inside, and knows nothing of gateways and drivers",
	},
	{packages: "sandboxes/statedir", ours: []string{"sandboxes"}, why: "what a driver keeps on disk does not depend on what it makes"},
	{packages: "sandboxes/hostproc", why: "processes of the host are nobody's in particular"},
	{packages: "sandboxes/image/trust", ours: []string{"sandboxes/image"}, tests: []string{"sandboxes", "sandboxes/image"}, why: "whether a signature counts does not depend on where images are kept"},
	{packages: "sandboxes/image", ours: []string{"sandboxes", "jupyter/kernelspec"}, tests: []string{"..."}, why: "images are made and read without a driver"},
	{packages: "sandboxes/agent/filesync", ours: []string{"sandboxes/agentapi"}, tests: []string{"..."}, why: "file sync knows files and the link, and nothing of kernels"},
	{packages: "sandboxes/netpolicy/netpolicytest", ours: []string{"sandboxes/netpolicy", "sandboxes/netpolicy/egress", "sandboxes/sandboxtest"}, support: true, why: "the tests of drivers share a network"},
	{packages: "sandboxes/netpolicy/egress", ours: []string{"sandboxes"}, why: "the way out of a sandbox knows policies and addresses, and nothing of namespaces, drivers or the gateway"},
	{packages: "sandboxes/netpolicy", ours: []string{"sandboxes", "sandboxes/netpolicy/egress", "sandboxes/statedir"}, tests: []string{"sandboxes/agent", "sandboxes/sandboxtest"}, why: "the network knows links, packets and the proxy, and no driver"},
	driver("sandboxes/gvisor"),
	driver("sandboxes/containerd"),
	driver("sandboxes/process"),
	{packages: "sandboxes/sandboxtest", ours: []string{"sandboxes", "sandboxes/agentapi", "jupyter"}, support: true, why: "the suite is the same for every driver"},

	{packages: "contents", ours: []string{"auth", "jupyter/rest"}, tests: []string{"contents/..."}, why: "files are files, wherever they are kept and whoever runs them"},
	{packages: "contents/contentstest", ours: []string{"contents"}, support: true, why: "the suite is the same for every store"},
	{packages: "contents/contentsync", ours: []string{"contents", "sandboxes/agentapi"}, tests: []string{"..."}, why: "the gateway's end of a sandbox's file sync knows a store and the link"},
	{packages: "contents/s3store", ours: []string{"contents"}, tests: []string{"contents/..."}, why: "a store knows S3 and the contract"},
	{packages: "contents/s3embed", tests: []string{"contents/..."}, why: "the embedded server speaks S3 to whoever asks"},
	{packages: "frontend-config", why: "pages and settings know no kernels, files or logins"},

	{
		packages: "kernelgw", ours: []string{
			"contents", "contents/contentsync", "frontend-config", "kernelgw/outputlog",
			"auth", "jupyter", "jupyter/kernelspec", "jupyter/rest", "jupyter/wsproto", "sandboxes", "sandboxes/agentapi",
			"kernelgw/kernels", "kernelgw/policies", "kernelgw/registry", "kernelgw/secrets", "kernelgw/splice", "kernelgw/telemetry",
		},
		tests: []string{"..."}, why: "the server knows contracts; implementations are chosen in cmd, and ZeroMQ stays in the agent",
	},
	{
		packages: "kernelgw/kernels", ours: []string{
			"jupyter", "jupyter/kernelspec", "sandboxes", "sandboxes/agentapi", "kernelgw/outputlog", "kernelgw/registry", "kernelgw/telemetry",
		},
		tests: []string{"..."}, why: "the life of kernels knows contracts; implementations are chosen in cmd, and HTTP routes are above it",
	},
	{packages: "kernelgw/outputlog/outputlogtest", support: true, why: "the tests of whoever keeps or reads output share a store"},
	{packages: "kernelgw/outputlog", tests: []string{"kernelgw/outputlog/outputlogtest"}, why: "what was printed is kept without knowing who printed it, who reads it, or where objects are"},
	{packages: "kernelgw/hosts", tests: []string{"sandboxes", "sandboxes/netpolicy/egress"}, why: "a pattern of host names means the same to whoever uses it"},
	{packages: "kernelgw/policies", ours: []string{"kernelgw/hosts", "kernelgw/registry", "sandboxes"}, tests: []string{"..."}, why: "what a workspace may do is decided without knowing what it does"},
	{packages: "kernelgw/secrets", ours: []string{"kernelgw/hosts", "kernelgw/registry"}, tests: []string{"..."}, why: "a secret is kept apart from all that could tell it"},
	{packages: "kernelgw/registry", why: "records are JSON of whatever meaning"},
	{packages: "kernelgw/registry/registrytest", ours: []string{"kernelgw/registry"}, support: true, why: "the suite is the same for every store"},
	{packages: "kernelgw/registry/...", ours: []string{"kernelgw/registry"}, tests: []string{"kernelgw/registry/..."}, why: "a store knows records and nothing else"},
	{packages: "kernelgw/delivery", tests: []string{"..."}, why: "delivery is tested from its one end to its other, and is no part of either"},
	{packages: "kernelgw/splice", why: "the hot loop copies bytes and imports none of ours"},
	{packages: "kernelgw/telemetry", why: "metrics and logs are arguments to the others, and know none of them"},

	{packages: "conformance/...", ours: []string{"conformance/..."}, support: true, why: "the black-box suite would share our mistakes"},
	{packages: "bench/relay", ours: []string{"jupyter", "jupyter/wsproto", "jupyter/zmq"}, support: true, why: "the least that a server can be has the sockets and encodings of ours, and nothing of what is measured against it"},
	{packages: "bench", support: true, why: "what is measured is a server, whoever wrote it"},
	{packages: "images", why: "recipes of images are files"},
	{packages: "docs/examples/...", stdlib: true, why: "an example is what a client of anybody's can be"},

	{packages: "cmd/kernelagent", ours: []string{"sandboxes/agent", "sandboxes/agentapi"}, why: "the program inside the sandbox is small"},
	{packages: "cmd/kernelgw", ours: []string{"..."}, tests: []string{"..."}, why: "main chooses the implementations"},
	{packages: "cmd", why: "the tests of the whole look at files"},
}

func driver(name string) layer {
	return layer{
		packages: name,
		ours:     []string{"sandboxes", "sandboxes/agentapi", "sandboxes/hostproc", "sandboxes/image", "sandboxes/netpolicy", "sandboxes/statedir", "jupyter/kernelspec"},
		tests:    []string{"..."},
		why:      "a driver knows the contract, images and kernelspecs, and no other driver and nothing of the gateway",
	}
}

// keepers are the only importers of some libraries, tests included, so that
// to replace one is to change one package.
var keepers = []struct {
	library  string
	packages []string
	why      string
}{
	{"github.com/go-zeromq/", []string{"jupyter/zmq", "jupyter/jupytertest"}, "jupyter/zmq guards zmq4 against hostile peers; besides it only the fake kernel, the other end, uses it"},
	{"github.com/aws/", []string{"contents/s3store", "contents/s3embed", "contents/contentstest", "cmd/kernelgw"}, "whoever needs files asks contents.Store, so that S3 stays one package"},
	{"filippo.io/age", []string{"kernelgw/secrets"}, "a KMS can stand in for age where secrets are kept"},
	{"github.com/versity/", []string{"contents/s3embed"}, "the embedded S3 server is one choice among others"},
	{"github.com/sigstore/", []string{"sandboxes/image/trust"}, "whoever needs signatures verified asks an image.Verifier, so that sigstore stays one package"},
	{"github.com/labstack/", []string{"kernelgw", "cmd/..."}, "echo stays in kernelgw, so that its next major version is a mechanical change"},
}

// emptyNames are names that say nothing of what a package knows.
var emptyNames = []string{"util", "utils", "common", "types", "helper", "helpers", "misc", "base", "lib", "shared"}

// testLibraries may be used by tests of packages that need only the standard
// library.
var testLibraries = []string{"github.com/google/go-cmp/", "go.uber.org/goleak"}

// source is one Go file.
type source struct {
	file, pkg string // pkg: the directory in the repository, "cmd/kernelgw"
	test      bool
	parsed    *ast.File
}

func TestImportsGoDownwards(t *testing.T) {
	tree := os.DirFS("..")
	for _, v := range violations(t, tree) {
		t.Error(v)
	}
}

// violations returns every breach of the rules in a repository, as
// "file:line: what: why".
func violations(t *testing.T, tree fs.FS) []string {
	t.Helper()
	files := token.NewFileSet()
	sources := parseTree(t, tree, files)
	byPackage := map[string][]source{}
	for _, s := range sources {
		byPackage[s.pkg] = append(byPackage[s.pkg], s)
	}
	var found []string
	for pkg, list := range byPackage {
		if slices.Contains(emptyNames, path.Base(pkg)) {
			found = append(found, fmt.Sprintf("%s:1: package %s: the name says nothing: a helper lives beside its user, an idea has a name", list[0].file, pkg))
		}
		if !slices.ContainsFunc(list, hasPackageComment) {
			found = append(found, fmt.Sprintf("%s:1: package %s has no package comment: say what it knows, and what it refuses to know", list[0].file, pkg))
		}
		rule, ok := layerOf(pkg)
		if !ok {
			found = append(found, fmt.Sprintf("%s:1: package %s is in no layer: add a rule for it to layers in cmd/layers_test.go, after design section 4", list[0].file, pkg))
			continue
		}
		for _, s := range list {
			for _, spec := range s.parsed.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if why := rule.forbids(s, imported); why != "" {
					found = append(found, fmt.Sprintf("%s: package %s imports %s: %s", at(files, spec), pkg, imported, why))
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

func at(files *token.FileSet, node ast.Node) string {
	p := files.Position(node.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// forbids returns why a file may not import a package, or "".
func (l layer) forbids(s source, imported string) string {
	for _, k := range keepers {
		if strings.HasPrefix(imported, k.library) && !matchesAny(k.packages, s.pkg) {
			return k.why
		}
	}
	ours, isOurs := strings.CutPrefix(imported, module+"/")
	switch {
	case isOurs:
		if ours == s.pkg && s.test { // the test of a package from outside
			return ""
		}
		if to, ok := layerOf(ours); ok && to.support && !s.test && !l.support {
			return "it is for tests only"
		}
		if !matchesAny(l.ours, ours) && !(s.test && matchesAny(l.tests, ours)) {
			return l.why
		}
	case imported == "testing" || strings.HasPrefix(imported, "testing/"):
		if !s.test && !l.support {
			return "testing is for tests"
		}
	case l.stdlib && strings.Contains(strings.Split(imported, "/")[0], "."):
		if !s.test || !slices.ContainsFunc(testLibraries, func(lib string) bool { return strings.HasPrefix(imported, lib) }) {
			return l.why
		}
	}
	return ""
}

func layerOf(pkg string) (layer, bool) {
	for _, l := range layers {
		if matches(l.packages, pkg) {
			return l, true
		}
	}
	return layer{}, false
}

// matches reports whether pattern, a package or a tree, holds pkg.
func matches(pattern, pkg string) bool {
	tree, isTree := strings.CutSuffix(pattern, "...")
	return pattern == pkg || isTree && strings.HasPrefix(pkg+"/", tree)
}

func matchesAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, pkg) })
}

func hasPackageComment(s source) bool {
	return s.parsed.Doc != nil && len(strings.Fields(s.parsed.Doc.Text())) > 3
}

// parseTree parses the imports of all Go files of the module.
func parseTree(t *testing.T, tree fs.FS, files *token.FileSet) []source {
	t.Helper()
	var sources []source
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && notOfTheModule(tree, name) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(files, name, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		sources = append(sources, source{
			file: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), parsed: parsed,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(sources, func(a, b source) int { return cmp.Compare(a.file, b.file) })
	return sources
}

// notOfTheModule reports whether the go command passes over a directory too.
func notOfTheModule(tree fs.FS, dir string) bool {
	name := path.Base(dir)
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules" {
		return true
	}
	_, err := fs.Stat(tree, path.Join(dir, "go.mod"))
	return err == nil
}

// Every rule is about something: rules of packages that are gone would come to
// life again with another package of that name.
func TestEveryLayerExists(t *testing.T) {
	var packages []string
	for _, s := range parseTree(t, os.DirFS(".."), token.NewFileSet()) {
		packages = append(packages, s.pkg)
	}
	for _, l := range layers {
		if !slices.ContainsFunc(packages, func(p string) bool { return matches(l.packages, p) }) {
			t.Errorf("no package is in layer %s: remove the rule from cmd/layers_test.go", l.packages)
		}
	}
}

// The checker is checked: each breach of a made-up repository is found, at its
// line, and nothing else is.
func TestLayersFindSyntheticViolations(t *testing.T) {
	file := func(name, doc string, imports ...string) *fstest.MapFile {
		text := doc + "\npackage " + name + "\n"
		for _, i := range imports {
			text += "import _ " + strconv.Quote(i) + "\n"
		}
		return &fstest.MapFile{Data: []byte(text)}
	}
	const doc = "// Package x is here to be looked at."
	for name, c := range map[string]struct {
		file string
		text *fstest.MapFile
		want string // start of the only violation; "" for none
	}{
		"allowed":                  {"kernelgw/kernels/a.go", file("kernels", doc, "net/http", "kernelgw/sandboxes", "github.com/google/uuid"), ""},
		"driver in the gateway":    {"kernelgw/kernels/a.go", file("kernels", doc, "errors", "kernelgw/sandboxes/gvisor"), "kernelgw/kernels/a.go:4: package kernelgw/kernels imports kernelgw/sandboxes/gvisor: "},
		"driver in its test":       {"kernelgw/kernels/a_test.go", file("kernels", doc, "kernelgw/sandboxes/process"), ""},
		"store in the server":      {"kernelgw/a.go", file("kernelgw", doc, "kernelgw/kernelgw/registry/file"), "kernelgw/a.go:3: "},
		"zmq in the gateway":       {"kernelgw/a.go", file("kernelgw", doc, "kernelgw/jupyter/zmq"), "kernelgw/a.go:3: "},
		"one driver in another":    {"sandboxes/gvisor/a.go", file("gvisor", doc, "kernelgw/sandboxes/process"), "sandboxes/gvisor/a.go:3: "},
		"gateway in a driver":      {"sandboxes/process/a.go", file("process", doc, "kernelgw/kernelgw/telemetry"), "sandboxes/process/a.go:3: "},
		"driver in main":           {"cmd/kernelgw/a.go", file("main", doc, "kernelgw/sandboxes/process"), ""},
		"driver in the agent":      {"cmd/kernelagent/a.go", file("main", doc, "kernelgw/sandboxes/gvisor"), "cmd/kernelagent/a.go:3: "},
		"ours in splice":           {"kernelgw/splice/a.go", file("splice", doc, "kernelgw/jupyter"), "kernelgw/splice/a.go:3: "},
		"ours in splice's test":    {"kernelgw/splice/a_test.go", file("splice", doc, "kernelgw/jupyter"), "kernelgw/splice/a_test.go:3: "},
		"splice from outside":      {"kernelgw/splice/a_test.go", file("splice_test", doc, "kernelgw/kernelgw/splice"), ""},
		"ours in conformance":      {"conformance/a_test.go", file("conformance", doc, "kernelgw/jupyter/rest"), "conformance/a_test.go:3: "},
		"conformance in itself":    {"conformance/a_test.go", file("conformance", doc, "kernelgw/conformance/probe"), ""},
		"library in a root":        {"jupyter/rest/a.go", file("rest", doc, "github.com/google/uuid"), "jupyter/rest/a.go:3: "},
		"library in a root's test": {"jupyter/rest/a_test.go", file("rest", doc, "github.com/google/uuid"), "jupyter/rest/a_test.go:3: "},
		"go-cmp in a root's test":  {"jupyter/rest/a_test.go", file("rest", doc, "github.com/google/go-cmp/cmp"), ""},
		"go-cmp in a root":         {"jupyter/rest/a.go", file("rest", doc, "github.com/google/go-cmp/cmp"), "jupyter/rest/a.go:3: "},
		"zmq4 in the agent":        {"sandboxes/agent/a.go", file("agent", doc, "github.com/go-zeromq/zmq4"), "sandboxes/agent/a.go:3: "},
		"zmq4 in a test":           {"sandboxes/agent/a_test.go", file("agent", doc, "github.com/go-zeromq/zmq4"), "sandboxes/agent/a_test.go:3: "},
		"zmq4 at home":             {"jupyter/zmq/a.go", file("zmq", doc, "github.com/go-zeromq/zmq4"), ""},
		"echo below the server":    {"kernelgw/telemetry/a.go", file("telemetry", doc, "github.com/labstack/echo/v4"), "kernelgw/telemetry/a.go:3: "},
		"fake in the server":       {"cmd/kernelgw/a.go", file("main", doc, "kernelgw/sandboxes/sandboxtest"), "cmd/kernelgw/a.go:3: "},
		"testing in code":          {"kernelgw/registry/a.go", file("registry", doc, "testing"), "kernelgw/registry/a.go:3: "},
		"unknown package":          {"sandboxes/firecracker/a.go", file("firecracker", doc), "sandboxes/firecracker/a.go:1: package sandboxes/firecracker is in no layer"},
		"no package comment":       {"jupyter/a.go", file("jupyter", ""), "jupyter/a.go:1: package jupyter has no package comment"},
		"empty name":               {"kernelgw/registry/common/a.go", file("common", doc), "kernelgw/registry/common/a.go:1: package kernelgw/registry/common: the name says nothing"},
		"other module":             {"tools/x/a.go", file("x", "", "kernelgw/sandboxes/gvisor"), ""},
		"test data":                {"jupyter/testdata/a.go", file("x", "", "kernelgw/sandboxes/gvisor"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := violations(t, fstest.MapFS{
				c.file:           c.text,
				"tools/x/go.mod": &fstest.MapFile{Data: []byte("module x\n")},
			})
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("found %q where all is well", got)
			case c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)):
				t.Errorf("found %q, want one that starts with %q", got, c.want)
			}
		})
	}
}
