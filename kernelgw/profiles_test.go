package kernelgw_test

import (
	"strings"
	"testing"

	"kernelgw/kernelgw"
)

const adminToken = "admin-0123456789abcdef0123456789abcdef"

func TestProfilesAreForWhoRunsTheServer(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.AdminToken = adminToken })
	bearer := "Authorization: Bearer " + adminToken
	names := g.want(g.do("GET", "/debug/pprof/", "", bearer), 200).body
	for _, name := range strings.Fields(names) {
		got := g.want(g.do("GET", "/debug/pprof/"+name+"?seconds=1", "", bearer), 200)
		if len(got.body) == 0 {
			t.Errorf("the profile %s is empty", name)
		}
	}
	for _, name := range []string{"goroutine", "heap", "profile", "trace"} {
		if !strings.Contains(names, name+"\n") {
			t.Errorf("there is no %s among %q", name, names)
		}
	}
	if got := g.want(g.do("GET", "/debug/pprof/goroutine?debug=1&token="+adminToken, ""), 200); !strings.Contains(got.body, "goroutine profile: total") {
		t.Errorf("goroutines in text: %.100s", got.body)
	}
	cookies, _ := g.login()
	for _, name := range append(strings.Fields(names), "") {
		path := "/debug/pprof/" + name
		for who, r := range map[string]reply{"a user": g.ada("GET", path, ""), "a login": g.do("GET", path, "", "Cookie: "+cookies)} {
			if r.StatusCode != 404 {
				t.Errorf("%s: GET %s: %d", who, path, r.StatusCode)
			}
		}
		for who, header := range map[string]string{
			"nobody": "X-None: 1", "wrong": bearer + "x", "empty": "Authorization: Bearer ", "the metrics token": "Authorization: Bearer " + metricsToken,
		} {
			if r := g.do("GET", path, "", header); r.StatusCode != 403 {
				t.Errorf("%s: GET %s: %d", who, path, r.StatusCode)
			}
		}
	}
	for _, path := range []string{"/api/kernels", "/metrics", "/w/math/api/kernels"} {
		g.want(g.do("GET", path, "", bearer), 403)
	}
	for _, path := range []string{"/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/none", "/w/math/debug/pprof", "/debug/vars"} {
		g.want(g.do("GET", path, "", bearer), 404)
	}
}

func TestProfilesWithoutAnAdminTokenAreTheSingleUsers(t *testing.T) {
	many := start(t)
	many.want(many.do("GET", "/debug/pprof/heap", "", "Authorization: Bearer "), 403)
	many.want(many.ada("GET", "/debug/pprof/heap", ""), 404)
	single := startSingle(t, func(*kernelgw.Options) {})
	single.want(single.ada("GET", "/debug/pprof/heap", ""), 200)
	single.want(single.do("GET", "/debug/pprof/heap", ""), 403)
	cookies, _ := single.login()
	single.want(single.do("GET", "/debug/pprof/heap", "", "Cookie: "+cookies), 200)
	single.want(single.do("GET", "/debug/pprof/heap", "", "Cookie: "+cookies, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"), 403)
	capability := single.capability("default")
	single.want(single.do("GET", capability+"/debug/pprof/heap", ""), 404)
}
