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
	if f.any(kernels) || f.any(streams) {
		f.kernelTables(&b)
	}
	if f.any(kernels) {
		f.pythonTable(&b)
	}
	if f.any(files) {
		f.fileTable(&b)
	}
	if f.any(lab) {
		f.labTable(&b)
	}
	f.notes(&b, p)
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
agent, in a sandbox. The bare relay (bench/relay) is what a gateway cannot do
without: one process between WebSockets and ZeroMQ, with the sockets and encodings
of kernelgw's agent, without log, acknowledgement, limits or a second hop.
kernel_gateway is Jupyter's own headless server.

`)
	of := func(server string) subject { return subject{kernels, server, fakeKernel, true} }
	base, mine, sandboxed, bare, other := of("stock"), of("process"), of("gvisor"), of(relay), of(kernelGateway)
	head := []string{
		"figure", "jupyter_server", "kernelgw, process", "ratio", "asked for", "bare relay", "ratio to it",
		"kernel_gateway", "ratio to it", "kernelgw, gvisor", "ratio to jupyter_server",
	}
	cells := func(line *figure) []string {
		return []string{
			f.cell(base, line), f.cell(mine, line), f.ratio(mine, base, line), f.wanted(mine, base, line),
			f.cell(bare, line), f.ratio(mine, bare, line), f.cell(other, line), f.ratio(mine, other, line),
			f.cell(sandboxed, line), f.ratio(sandboxed, base, line),
		}
	}
	if f.any(kernels) {
		f.table(b, head, kernelLines, cells)
	}
	if f.any(streams) {
		b.WriteString(`
### Much, to many, past who reads nothing, and to who comes back

`)
		for _, s := range []*subject{&base, &mine, &sandboxed, &bare, &other} {
			s.part = streams
		}
		f.table(b, head, streamLines, cells)
	}
}

func (f *figures) pythonTable(b *strings.Builder) {
	b.WriteString(`
## ipykernel

The same ipykernel for jupyter_server and kernelgw's process driver; the gvisor
driver runs the one of its image, inside a sandbox. Here most of the time is the
kernel's own.

`)
	base, mine := subject{kernels, "stock", pythonKernel, false}, subject{kernels, "process", pythonKernel, false}
	sandboxed := subject{kernels, "gvisor", imageKernel, false}
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
		return []string{
			f.cell(base, line), f.cell(mine, line), f.ratio(mine, base, line), f.wanted(mine, base, line),
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
func (f *figures) notes(b *strings.Builder, p plan) {
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
	if f.any(streams) {
		b.WriteString(fmt.Sprintf(`- A GB is 1e9 bytes of text; %d MiB are printed for each size of message.
- A hundred clients of one kernel get %s of 100 B each. A delivery is one of
  them at one client.
- The stalled reader's WebSocket is open and its TCP buffers are full. %d MiB are printed in
  messages of 64 KiB, first without and then with it, to another client that reads.
  Memory is that of the server and of kernelgw's agent, from before the first to the
  most at any time. The relay is left out: it stops.
- Who comes back does so after 200 ms with the same session_id, in the middle of %s,
  one each millisecond, and reads until the cell is idle, or nothing came for 5 s. The
  close is 1001; the reset is one of TCP.
`, p.volume>>20, count(p.fanOut[kernelgw], "message"), p.stalled>>20, count(p.returning, "message")))
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
