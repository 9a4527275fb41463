// Agent stands for the agent where a test is about the driver alone. It does what
// its configuration says.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM)
	if len(os.Args) == 2 && os.Args[1] == "pause" {
		<-stopped
		return
	}
	config := flag.String("config", "", "")
	listen := flag.String("listen", "", "")
	for _, name := range []string{"run-as", "home", "runtime-dir", "log-level"} {
		flag.String(name, "", "")
	}
	flag.Parse()
	data, err := os.ReadFile(*config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var order struct{ Do string }
	if err := json.Unmarshal(data, &order); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	switch order.Do {
	case "use memory":
		for held := [][]byte{}; ; {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			held = append(held, block)
		}
	case "start processes":
		// As many as it gets, each of them this program, pausing.
		n := 0
		for ; n < 100_000; n++ {
			if _, err := os.StartProcess("/proc/self/exe", []string{"agent", "pause"}, &os.ProcAttr{}); err != nil {
				break
			}
		}
		fmt.Println("started", n)
	case "flood":
		go func() {
			for {
				fmt.Println(strings.Repeat("x", 1000))
			}
		}()
	}
	network, address, _ := strings.Cut(*listen, ":")
	l, err := net.Listen(network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(4)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = fmt.Fprintf(c, "agent of %s, cgroup %s\n", os.Getenv("PLAIN_NETWORK"), order.Do)
			_ = c.Close()
		}
	}()
	<-stopped
}
