package conformance

import (
	"testing"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

func TestTenantsCannotReachEachOther(t *testing.T) {
	t.Parallel()
	users := []servers.User{
		{Name: "ann", Token: probe.ID(), Workspaces: []string{"anns", "both"}},
		{Name: "bob", Token: probe.ID(), Workspaces: []string{"bobs", "both"}},
	}
	ann := own(t, servers.Options{Users: users})
	bob := newOwned(&probe.Server{Base: ann.Base, Token: users[1].Token}, ann.process, false)

	x := newSession(t, ann, map[string]any{"path": "secret.ipynb", "type": "notebook", "name": "secret"})
	w := ann.Dial(t, x.Kernel.ID, probe.Dialing{Session: "shared-name"})
	w.Run(t, "kept = 'anns'")
	bobs := bob.StartKernel(t)

	for _, base := range []string{"", "w/bobs/", "w/both/"} {
		for _, path := range []string{"api/kernels", "api/sessions"} {
			var all []struct{ ID string }
			bob.Do(t, "GET", base+path, nil).Want(t, 200).Decode(t, &all)
			for _, one := range all {
				if one.ID == x.ID || one.ID == x.Kernel.ID {
					t.Errorf("%s%s shows bob what is ann's", base, path)
				}
			}
		}
		for _, r := range [][2]string{
			{"GET", "api/kernels/" + x.Kernel.ID},
			{"POST", "api/kernels/" + x.Kernel.ID + "/interrupt"},
			{"POST", "api/kernels/" + x.Kernel.ID + "/restart"},
			{"DELETE", "api/kernels/" + x.Kernel.ID},
			{"GET", "api/sessions/" + x.ID},
			{"DELETE", "api/sessions/" + x.ID},
			{"PATCH", "api/sessions/" + x.ID},
		} {
			var body any
			if r[0] == "PATCH" {
				body = "{}"
			}
			if got := bob.Do(t, r[0], base+r[1], body).Status; got != 404 {
				t.Errorf("%s %s%s answered bob %d, want 404", r[0], base, r[1], got)
			}
		}
		through := newOwned(&probe.Server{Base: bob.Base + base, Token: bob.Token}, bob.process, false)
		if got := refused(t, through, x.Kernel.ID, probe.Dialing{Session: "shared-name"}); got != 404 {
			t.Errorf("bob's socket to ann's kernel under %q got %d, want 404", base, got)
		}
	}
	// His own workspace's address with her token, and the other way round.
	for _, path := range []string{"w/anns/api/kernels", "w/anns/api/kernels/" + x.Kernel.ID, "w/anns/", "w/no-such/api/kernels"} {
		if got := bob.Do(t, "GET", path, nil).Status; got != 404 {
			t.Errorf("GET %s answered bob %d, want 404", path, got)
		}
	}
	// Her kernel's id is as free to him as an unknown one: that it is taken is
	// not for him to know. What he gets is a kernel of his own.
	bob.Do(t, "POST", "api/kernels", map[string]string{"kernel_id": x.Kernel.ID}).Want(t, 201)
	own := bob.Dial(t, x.Kernel.ID, probe.Dialing{Session: "shared-name"})
	if got := own.Run(t, "print('kept' in globals())").Stdout; got != "False\n" {
		t.Errorf("bob's kernel of the id of ann's says %q", got)
	}
	bob.Do(t, "DELETE", "api/kernels/"+x.Kernel.ID, nil).Want(t, 204)
	// Moving a session onto her kernel.
	y := newSession(t, bob, map[string]any{"path": "secret.ipynb", "type": "notebook", "name": "", "kernel": map[string]string{"id": bobs.ID}})
	if y.ID == x.ID {
		t.Error("the same path gave bob ann's session")
	}
	bob.Do(t, "PATCH", "api/sessions/"+y.ID, map[string]any{"kernel": map[string]string{"id": x.Kernel.ID}}).Want(t, 400, 404)

	if me := bob.Do(t, "GET", "api/me", nil).Want(t, 200).Object(t)["identity"].(map[string]any)["username"]; me != "bob" {
		t.Errorf("bob is %v", me)
	}
	if got := w.Run(t, "print(kept)").Stdout; got != "anns\n" {
		t.Errorf("after all that ann's kernel says %q", got)
	}
	if got := get(t, ann, x.Kernel.ID); got.ExecutionState == "dead" {
		t.Errorf("ann's kernel is %+v", got)
	}
}

func TestWorkspacesHaveTheirOwnKernels(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{Users: []servers.User{{Name: "ann", Token: probe.ID(), Workspaces: []string{"one", "two"}}}})
	two := newOwned(&probe.Server{Base: s.Base + "w/two/", Token: s.Token}, s.process, false)
	k := two.StartKernel(t)
	s.Do(t, "GET", "w/one/api/kernels/"+k.ID, nil).Want(t, 404)
	s.Do(t, "GET", "api/kernels/"+k.ID, nil).Want(t, 404) // the default is the first
	if got := two.Dial(t, k.ID, probe.Dialing{Session: probe.ID()}).Run(t, "print(2)").Stdout; got != "2\n" {
		t.Errorf("stdout is %q", got)
	}
	var all specs
	two.Do(t, "GET", "api/kernelspecs", nil).Want(t, 200).Decode(t, &all)
	for _, at := range all.Kernelspecs["python3"].Resources {
		two.Server = &probe.Server{Base: s.Base, Token: s.Token}
		two.Do(t, "GET", at, nil).Want(t, 200)
		if want := "/w/two/kernelspecs/"; len(at) < len(want) || at[:len(want)] != want {
			t.Errorf("resource is at %s, want it under %s", at, want)
		}
	}
}
