// Package kernelgw is the gateway's HTTP server: the route table, who may call
// what, and the handlers of the Jupyter REST API and of our own. It knows the
// Jupyter API's shapes and status codes; it knows nothing of sandboxes, ZeroMQ,
// or how kernels and logins are kept.
package kernelgw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"kernelgw/auth"
	"kernelgw/contents"
	frontend "kernelgw/frontend-config"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/outputlog"
	"kernelgw/kernelgw/policies"
	"kernelgw/kernelgw/secrets"
	"kernelgw/kernelgw/splice"
	"kernelgw/kernelgw/telemetry"
	"kernelgw/sandboxes/agentapi"
)

// Kernels is what the server needs of *kernels.Manager; see there for the
// behaviour of each method.
type Kernels interface {
	Ready() bool
	Specs(ctx context.Context, workspace string) (kernels.Specs, error)
	Start(ctx context.Context, r kernels.StartRequest) (kernels.Kernel, error)
	List(ctx context.Context, workspace string) ([]kernels.Kernel, error)
	Get(ctx context.Context, workspace, id string) (kernels.Kernel, error)
	Interrupt(ctx context.Context, workspace, id string) error
	Restart(ctx context.Context, workspace, id string) (kernels.Kernel, error)
	Shutdown(ctx context.Context, workspace, id string) error
	UsedBy(ctx context.Context, workspace, id, who string) error
	Connect(ctx context.Context, workspace, id string) (kernels.Connection, error)
	ConnectLog(ctx context.Context, workspace, id string) (kernels.Connection, error)
	Sessions(ctx context.Context, workspace string) ([]kernels.Session, error)
	Session(ctx context.Context, workspace, id string) (kernels.Session, error)
	CreateSession(ctx context.Context, r kernels.SessionRequest) (kernels.Session, error)
	UpdateSession(ctx context.Context, workspace, id string, u kernels.SessionUpdate) (kernels.Session, error)
	DeleteSession(ctx context.Context, workspace, id string) error
	Usage(ctx context.Context, workspace, id string) (agentapi.Usage, error)
	StoreOutput(ctx context.Context, workspace, id string) error
	Terminals
	Governed
	Converter
	Executor
}

// Users is who may log in, and what is made from that.
type Users interface {
	auth.Authenticator
	auth.Logins
	auth.Capabilities
	auth.Workspaces
}

// Options configure a Server. Users, Kernels, Log and Metrics are required.
type Options struct {
	Users   Users
	Kernels Kernels
	Log     *slog.Logger
	Metrics *telemetry.Metrics

	// Files serves the files of workspaces; nil means that there are none.
	Files *contents.Handlers
	// IsDirectory looks what is at a path of a workspace; what is not there is
	// fs.ErrNotExist. Nil means that paths in outputs are not resolved.
	IsDirectory func(ctx context.Context, workspace, path string) (bool, error)
	// Usage returns the bytes that a workspace holds and may hold, 0 when there is
	// no limit, for the home page; nil means that it shows none.
	Usage func(ctx context.Context, workspace string) (used, limit int64, err error)
	// OutputLogs are what kernels have printed; nil means that it is not kept.
	OutputLogs *outputlog.Logs
	// Policies are what workspaces may do, and Secrets what their kernels may use and
	// not see; nil means that nobody can choose that, or keep them.
	Policies *policies.Policies
	Secrets  *secrets.Secrets
	// Events tells listeners what happens; nil means that only what clients do to
	// kernels is told.
	Events *Events
	// Frontend is JupyterLab in the browser; nil means that it is not installed,
	// and FrontendMissing says why and what to do.
	Frontend        *frontend.Frontend
	FrontendMissing string

	// BaseURL is the path under which everything is served: "/" or "/prefix/".
	BaseURL string
	// MetricsToken is a token for /metrics and nothing else, as a bearer or
	// ?token=; "" means none. The single-user owner's credentials work there,
	// too; those of the users of a list do not: metrics tell of everyone.
	MetricsToken string
	// AdminToken is a token for the routes of the class auth.Admin and nothing else,
	// as a bearer or ?token=; "" means none. The single-user owner's credentials
	// work there, too; to the users of a list those routes are not there.
	AdminToken string
	// MetricsPublic serves /metrics without credentials.
	MetricsPublic bool
	// AllowOrigins are origins whose pages may call the server, written
	// scheme://host[:port].
	AllowOrigins []string
	// AllowCredentials lets those pages send what browsers send by themselves:
	// the login cookie, or a password for Basic. Without it they need a token.
	AllowCredentials bool
	// FrameAncestors are further origins whose pages may embed ours.
	FrameAncestors []string
	// TrustedProxies are the peers whose X-Forwarded-Proto is believed.
	TrustedProxies []netip.Prefix
	// Shutdown is called when the owner asks for it by POST /api/shutdown; nil
	// means that nobody may.
	Shutdown func()
	// MaxBodyBytes bounds the body of a request; default 1 MiB.
	MaxBodyBytes int64
	// MaxSocketsPerUser bounds a user's open WebSockets and streams, those that wait
	// for their kernel included; default 1000. Each takes two file descriptors.
	MaxSocketsPerUser int
	// MaxMessageBytes bounds one WebSocket message; default as in splice.
	MaxMessageBytes int64
	// ConnectTimeout bounds how long a WebSocket upgrade is held until the
	// kernel's agent listens; default 40 s, which is nbclient's patience.
	ConnectTimeout time.Duration
}

// Server serves the gateway's HTTP. Safe for concurrent use.
type Server struct {
	// set at construction
	o       Options
	base    string
	origins auth.Origins // that may call with a token
	trusted auth.Origins // that may call with what browsers send by themselves
	csp     string       // for pages
	echo    *echo.Echo
	http    *http.Server
	started time.Time
	colors  *colors

	questions chan struct{} // holds a token for each question to an agent for a page
	holdings  *holdings     // nil without Options.Usage
	results   *results

	draining          atomic.Bool
	sockets           *sockets
	bodies            *bodies
	toClient, toAgent splice.Traffic
	flush             sync.Mutex // held while traffic moves into metrics
	flushed           traffic    // guarded by flush
}

// Limits of HTTP. A header that dribbles in (slow loris) or is huge ends the
// connection; so does an answer that the client does not read.
const (
	headerTimeout  = 10 * time.Second
	maxHeaderBytes = 64 << 10
	idleTimeout    = 2 * time.Minute
	writeTimeout   = 2 * time.Minute
	bodyTimeout    = 30 * time.Second
)

var validBase = regexp.MustCompile(`^/([A-Za-z0-9._~-]+/)*$`)

// New returns a Server, or says which option is wrong.
func New(o Options) (*Server, error) {
	o.BaseURL = cmp.Or(o.BaseURL, "/")
	if !validBase.MatchString(o.BaseURL) {
		return nil, fmt.Errorf("base URL %q: it must begin and end with a slash, as in /prefix/, and hold only letters, digits and . _ ~ -", o.BaseURL)
	}
	origins, err := auth.NewOrigins(o.AllowOrigins)
	if err != nil {
		return nil, fmt.Errorf("allowed origins: %w", err)
	}
	if _, err := auth.NewOrigins(o.FrameAncestors); err != nil {
		return nil, fmt.Errorf("frame ancestors: %w", err)
	}
	if o.Events == nil {
		o.Events = new(Events)
	}
	o.MaxSocketsPerUser = cmp.Or(o.MaxSocketsPerUser, 1000)
	o.MaxBodyBytes = cmp.Or(o.MaxBodyBytes, 1<<20)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 40*time.Second)
	s := &Server{
		o: o, base: o.BaseURL, origins: origins, csp: contentSecurityPolicy(o.BaseURL, o.FrameAncestors),
		echo: echo.New(), started: time.Now(), colors: newColors(), sockets: newSockets(o.MaxSocketsPerUser), bodies: newBodies(),
		questions: make(chan struct{}, maxQuestions), results: newResults(),
	}
	if o.AllowCredentials {
		s.trusted = origins
	}
	if o.Usage != nil {
		s.holdings = newHoldings(o.Usage, o.Log)
	}
	s.register(Routes())
	s.http = &http.Server{
		Handler:           s.echo,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		IdleTimeout:       idleTimeout,
		WriteTimeout:      writeTimeout,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// register puts the table into the router.
func (s *Server) register(table []Route) {
	s.echo.Pre(trimSlash)
	s.echo.Use(s.observe)
	seen, heads := map[string]bool{}, []string{}
	endings := map[string][]ending{}
	for _, r := range table {
		if r.Path == metricsPath && s.o.MetricsPublic {
			r.Access = auth.Public
		}
		for _, m := range r.Mounts {
			path := trimmed(r.At(s.base, m))
			// With "/" as the base URL, the host's root is the same place.
			if key := r.Method + " " + path; !seen[key] {
				seen[key] = true
				head, segments := cutEnding(path)
				head = r.Method + " " + head
				if endings[head] == nil {
					heads = append(heads, head)
				}
				endings[head] = append(endings[head], ending{segments, s.guard(r, m)})
			}
		}
	}
	for _, head := range heads {
		method, path, _ := strings.Cut(head, " ")
		s.echo.Add(method, path, choose(endings[head]))
	}
}

// Handler returns the server's handler, without the limits that Serve has.
func (s *Server) Handler() http.Handler { return s.echo }

// Serve answers requests on l until Drain, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// Drain ends the server's work: readiness turns false, new WebSockets are
// refused with 503, open ones are closed with 1012 at a message boundary, and
// requests under way are finished. When ctx ends first, the requests are cut,
// which is logged, and the handlers' contexts end; WebSockets end within
// splice.DefaultBoundaryWait and DefaultCloseWait, and Drain waits for them. An
// error means that some did not.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	s.sockets.drain()
	s.bodies.drain()
	if err := s.http.Shutdown(ctx); err != nil {
		s.o.Log.Warn("requests were cut: they outlasted the drain's patience", "error", err)
		_ = s.http.Close()
	}
	if s.holdings != nil {
		s.holdings.close()
	}
	joining, cancel := context.WithTimeout(context.WithoutCancel(ctx), splice.DefaultBoundaryWait+splice.DefaultCloseWait+5*time.Second)
	defer cancel()
	if !s.sockets.wait(joining) {
		return fmt.Errorf("cannot end all WebSockets: %w", context.Cause(joining))
	}
	return nil
}
