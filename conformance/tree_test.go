package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

// The kernel sees the files that the browser sees.
var treeChecks = []check{
	{name: "TreeKernelStartsInTheDirectoryOfItsNotebook", run: treeKernelStartsThere},
	{name: "TreeFileOfACellReachesTheBrowser", run: treeOutwards},
	{name: "TreeFileOfTheBrowserReachesTheKernel", run: treeInwards},
	{name: "TreeRenamesAndDeletesReachTheOtherSide", run: treeChanges},
	{name: "TreeIsSharedByKernelsAndTerminals", run: treeShared},
	{name: "TreeOutlivesItsKernel", run: treeOutlivesKernel},
}

// What people may have to wait, with room for a busy machine.
const treeDelay = 40 * time.Second

// kernelIn starts a kernel in a directory of the workspace.
func kernelIn(t testing.TB, s *target, dir string) *probe.Socket {
	t.Helper()
	var k probe.Kernel
	s.Do(t, "POST", "api/kernels", map[string]string{"name": "python3", "path": dir}).Want(t, 201).Decode(t, &k)
	s.Adopt(t, k.ID)
	return s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
}

// arrives waits until a file of the workspace has a content.
func arrives(t testing.TB, s *target, path, content string) {
	t.Helper()
	begun := time.Now()
	for {
		answer := s.Do(t, "GET", filesAt(path), nil)
		if answer.Status == 200 && string(answer.Body) == content {
			t.Logf("%s arrived after %v", path, time.Since(begun).Round(time.Millisecond))
			return
		}
		if time.Since(begun) > treeDelay {
			t.Fatalf("%s does not arrive: %d, %d bytes", path, answer.Status, len(answer.Body))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// leaves waits until a file of the workspace is gone.
func leaves(t testing.TB, s *target, path string) {
	t.Helper()
	for begun := time.Now(); s.Do(t, "GET", filesAt(path), nil).Status != 404; time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > treeDelay {
			t.Fatalf("%s does not go away", path)
		}
	}
}

// waitFor runs a cell that waits until an expression of Python is true.
func waitFor(t testing.TB, w *probe.Socket, expression string) {
	t.Helper()
	out := w.Run(t, fmt.Sprintf(`import os, time
begun = time.time()
while not (%[1]s) and time.time() - begun < %[2]v: time.sleep(0.02)
print(bool(%[1]s))`, expression, treeDelay.Seconds())).Stdout
	if out != "True\n" {
		t.Fatalf("the kernel does not see %s: %q", expression, out)
	}
}

func treeKernelStartsThere(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/data.csv", "a,b\n1,2\n")
	w := kernelIn(t, s, dir)
	if got := w.Run(t, "print(open('data.csv').read(), end='')").Stdout; got != "a,b\n1,2\n" {
		t.Errorf("the kernel reads %q", got)
	}
}

func treeOutwards(t testing.TB, s *target) {
	dir := folder(t, s)
	w := kernelIn(t, s, dir)
	w.Run(t, "open('small.txt', 'w').write('from a cell')")
	arrives(t, s, dir+"/small.txt", "from a cell")
	w.Run(t, "import os; os.makedirs('deep/er'); open('deep/er/ü \\'q\\'.txt', 'w').write('deep')")
	arrives(t, s, dir+"/deep/er/ü 'q'.txt", "deep")
	w.Run(t, "open('large.bin', 'w').write('x' * 5_000_000)")
	arrives(t, s, dir+"/large.bin", strings.Repeat("x", 5_000_000))
	w.Run(t, "for i in range(20):\n    open('small.txt', 'w').write(f'version {i}')")
	arrives(t, s, dir+"/small.txt", "version 19")
	listed := strings.Join(names(read(t, s, dir, "").entries(t)), " ")
	for _, name := range []string{"deep", "large.bin", "small.txt"} {
		if !strings.Contains(listed, name) {
			t.Errorf("the listing shows %s, and no %s", listed, name)
		}
	}
}

func treeInwards(t testing.TB, s *target) {
	dir := folder(t, s)
	w := kernelIn(t, s, dir)
	write(t, s, dir+"/new.txt", "from the browser")
	waitFor(t, w, "os.path.exists('new.txt') and open('new.txt').read() == 'from the browser'")
	write(t, s, dir+"/new.txt", "changed")
	waitFor(t, w, "open('new.txt').read() == 'changed'")
	put(t, s, dir+"/sub", map[string]any{"type": "directory"}).Want(t, 201)
	upload(t, s, dir+"/sub/a.bin", []byte("\x00\xff"))
	waitFor(t, w, "os.path.exists('sub/a.bin') and open('sub/a.bin', 'rb').read() == bytes([0, 255])")
	// What came from the browser may be changed by a cell, and comes back.
	w.Run(t, "open('new.txt', 'a').write(' and more')")
	arrives(t, s, dir+"/new.txt", "changed and more")
}

func treeChanges(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "a")
	write(t, s, dir+"/b.txt", "b")
	w := kernelIn(t, s, dir)
	patch(t, s, dir+"/a.txt", dir+"/moved.txt").Want(t, 200)
	waitFor(t, w, "os.path.exists('moved.txt') and not os.path.exists('a.txt')")
	s.Do(t, "DELETE", contentsAt(dir+"/b.txt"), nil).Want(t, 204)
	waitFor(t, w, "not os.path.exists('b.txt')")
	w.Run(t, "os.rename('moved.txt', 'again.txt')")
	arrives(t, s, dir+"/again.txt", "a")
	leaves(t, s, dir+"/moved.txt")
	w.Run(t, "os.remove('again.txt')")
	leaves(t, s, dir+"/again.txt")
}

func treeShared(t testing.TB, s *target) {
	dir := folder(t, s)
	one, two := kernelIn(t, s, dir), kernelIn(t, s, dir)
	one.Run(t, "open('one.txt', 'w').write('from one')")
	waitFor(t, two, "os.path.exists('one.txt') and open('one.txt').read() == 'from one'")
	shell := openTerminal(t, s, newTerminal(t, s).Name)
	shell.Send(t, []any{"stdin", "cd '" + dir + "' && cat one.txt && echo from the shell > shell.txt\r"})
	see(t, shell, "from one")
	arrives(t, s, dir+"/shell.txt", "from the shell\n")
	waitFor(t, one, "os.path.exists('shell.txt')")
}

func treeOutlivesKernel(t testing.TB, s *target) {
	dir := folder(t, s)
	var k probe.Kernel
	s.Do(t, "POST", "api/kernels", map[string]string{"name": "python3", "path": dir}).Want(t, 201).Decode(t, &k)
	s.Adopt(t, k.ID)
	s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()}).Run(t, "open('last.txt', 'w').write('just before the end')")
	s.Do(t, "DELETE", "api/kernels/"+k.ID, nil).Want(t, 204)
	if got := s.Do(t, "GET", filesAt(dir+"/last.txt"), nil).Want(t, 200).Body; string(got) != "just before the end" {
		t.Errorf("what the kernel wrote before its end is %q", got)
	}
	if got := kernelIn(t, s, dir).Run(t, "print(open('last.txt').read())").Stdout; got != "just before the end\n" {
		t.Errorf("the next kernel reads %q", got)
	}
}
