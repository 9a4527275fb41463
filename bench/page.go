package main

import (
	"fmt"
	"strings"
)

// page is the whole page of Markdown.
func (f *figures) page(about machine, command string, p plan) string {
	var b strings.Builder
	b.WriteString(`# Performance

What kernelgw costs beside a stock jupyter_server, measured in one run with one
client and the same kernels. The page is written by the command below; absolute
figures depend on the machine, and of a shared machine only the ratios hold.

`)
	fmt.Fprintf(&b, "    %s\n\n", command)
	for _, line := range about {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "- %s, the servers in turns, each started afresh; medians (min-max)\n", count(p.rounds, "round"))
	if f.any(kernels) {
		f.kernelTables(&b)
	}
	if f.any(files) {
		f.fileTable(&b)
	}
	if f.any(lab) {
		f.labTable(&b)
	}
	f.notes(&b)
	if len(f.remarks) > 0 {
		b.WriteString("\n## Seen\n\n")
		for _, r := range f.remarks {
			fmt.Fprintf(&b, "- %s\n", r)
		}
	}
	return b.String()
}

func (f *figures) kernelTables(b *strings.Builder) {
	b.WriteString(`
## A kernel that costs nothing

The kernel of jupyter/jupytertest/fakekernel, so that the server is what is
measured. The process driver runs it as jupyter_server does, as a plain child:
that is like for like, and what is asked for. The gvisor driver runs it, with its
agent, in a sandbox.

`)
	base, mine := subject{kernels, "stock", fakeKernel, true}, subject{kernels, "process", fakeKernel, true}
	sandboxed := subject{kernels, "gvisor", fakeKernel, true}
	f.table(b, []string{"figure", "jupyter_server", "kernelgw, process", "ratio", "asked for", "kernelgw, gvisor", "ratio"}, kernelLines, func(line *figure) []string {
		return []string{
			f.cell(base, line), f.cell(mine, line), f.ratio(mine, base, line), f.wanted(mine, base, line),
			f.cell(sandboxed, line), f.ratio(sandboxed, base, line),
		}
	})
	b.WriteString(`
## ipykernel

The same ipykernel for jupyter_server and kernelgw's process driver; the gvisor
driver runs the one of its image, inside a sandbox. Here most of the time is the
kernel's own.

`)
	base, mine = subject{kernels, "stock", pythonKernel, false}, subject{kernels, "process", pythonKernel, false}
	sandboxed = subject{kernels, "gvisor", imageKernel, false}
	f.table(b, []string{"figure", "jupyter_server", "kernelgw, process", "ratio", "kernelgw, gvisor", "ratio"}, kernelLines, func(line *figure) []string {
		return []string{f.cell(base, line), f.cell(mine, line), f.ratio(mine, base, line), f.cell(sandboxed, line), f.ratio(sandboxed, base, line)}
	})
}

func (f *figures) fileTable(b *strings.Builder) {
	b.WriteString(`
## Files

jupyter_server keeps them on the local disk, kernelgw in its embedded storage on
the same disk, every write a version and on the disk before it is acknowledged.
s3contents, in a jupyter_server, keeps them on SeaweedFS; kernelgw does so too in
the last column, for like with like.

`)
	base, mine := subject{part: files, server: "stock"}, subject{part: files, server: "process"}
	s3, mineOnS3 := subject{part: files, server: "s3contents"}, subject{part: files, server: "process-s3"}
	head := []string{"figure", "jupyter_server", "kernelgw, embedded", "ratio", "asked for", "s3contents", "embedded to it", "kernelgw, SeaweedFS", "ratio to s3contents"}
	f.table(b, head, fileLines, func(line *figure) []string {
		against := base
		if line.need.of != "" {
			against.server = line.need.of
		}
		return []string{
			f.cell(base, line), f.cell(mine, line), f.ratio(mine, base, line), f.wanted(mine, against, line),
			f.cell(s3, line), f.ratio(mine, s3, line), f.cell(mineOnS3, line), f.ratio(mineOnS3, s3, line),
		}
	})
}

func (f *figures) labTable(b *strings.Builder) {
	b.WriteString(`
## JupyterLab in Chromium

The same JupyterLab, served by its own server and by kernelgw. The page is ready
when the launcher offers a kernel and the file browser shows a file.

`)
	base, mine := subject{part: lab, server: "stock"}, subject{part: lab, server: "process"}
	f.table(b, []string{"figure", "jupyter lab", "kernelgw", "ratio", "asked for"}, labLines, func(line *figure) []string {
		return []string{f.cell(base, line), f.cell(mine, line), f.ratio(mine, base, line), f.wanted(mine, base, line)}
	})
}

// notes say how what was measured is to be read.
func (f *figures) notes(b *strings.Builder) {
	b.WriteString("\n## How to read this\n\n")
	if f.any(kernels) {
		b.WriteString(`- A round trip ends with the later of ` + "`execute_reply`" + ` and the ` + "`idle`" + ` status.
- A hundred round trips before those that count warm up each server.
- The fake kernel and the client of the round trips run on one thread each
  (GOMAXPROCS=1). Their time is in every server's figure.
- An ordinary client delays its TCP acknowledgements. jupyter_server does not set
  TCP_NODELAY, so its second small write waits for one, up to 40 ms. The client
  that acknowledges at once (TCP_QUICKACK) leaves that out: it is the fair
  comparison of the servers' work.
- jupyter_server runs with ` + "`limit_rate=False`" + `: by default it drops output over
  1000 messages a second, and what is dropped costs nothing to send.
- The rate counts from the first to the last message of one cell. Server CPU is
  that of the gateway process, or of jupyter_server, user and system, over the
  messages that arrived. kernelgw's agent is a process of its own, on the
  tenant's account; with gvisor it runs inside the sandbox and is not listed.
- Memory of a WebSocket is the growth of the process's resident set over those
  opened, all on one kernel, after ten that are not counted.
`)
	}
	if f.any(files) {
		b.WriteString(`- The client of the files keeps its connection open, acknowledges at once and
  reads answers to their end. One request is under way at a time.
- The notebook has some 430 cells with a hundred lines of output each, a fourth of
  them with a picture, too. Each save differs from the one before.
- jupyter_server's rename is one of the file system, whatever is in the directory.
  On S3 there is none: each file is copied and removed. kernelgw's keeps a journal,
  too, so that a rename that was killed is finished.
`)
	}
	if f.any(files) || f.any(lab) {
		b.WriteString(`- Memory at its most is the process's high-water mark (VmHWM); kernelgw's holds the
  embedded storage, s3contents' is without SeaweedFS.
`)
	}
	if f.any(lab) {
		b.WriteString(`- A first visit is with an empty browser cache, in a browser that was just
  started; a visit before those that count warms up the server.
`)
	}
}
