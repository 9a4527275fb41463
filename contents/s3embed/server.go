// Package s3embed runs an S3 server with versions inside this program: versity's
// gateway over a directory of the host, for installations without a cloud. It
// makes that server durable and repairs where it is not as S3 is. It knows
// nothing of files, workspaces or Jupyter: whoever uses it speaks S3 to it, as to
// any other server.
package s3embed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"
)

const (
	bucketName = "kernelgw"
	// region is what clients sign with; the server takes no other.
	region = "us-east-1"
	// startTimeout bounds the wait for a server that listens. It takes
	// milliseconds.
	startTimeout = 10 * time.Second
)

// Server is a running S3 server with one bucket, whose versioning is on.
type Server struct {
	// What an S3 client needs: path-style addressing, this endpoint through this
	// client, and keys that were made for this run.
	Endpoint   string
	Region     string
	Bucket     string
	AccessKey  string
	SecretKey  string
	HTTPClient *http.Client

	backend *directory
	lock    *flock.Flock
	end     context.CancelFunc
	ended   chan struct{} // closed when the server has stopped
	err     error         // why; read after ended
	once    sync.Once
}

// Start serves the objects in dir, which is made when it is not there. One
// program serves a directory at a time, and one server runs in a program. Objects
// are plain files in dir/objects, for those who look; only the server may write
// there. It needs a file system with extended attributes, and refuses others. log is
// told what fails; nil discards that.
func Start(ctx context.Context, dir string, log *slog.Logger) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the directory for the embedded S3 server: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	layout := layoutOf(dir)
	if err := layout.make(); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the embedded S3 server: %w", err)
	}
	if err := attributesWork(layout.objects); err != nil {
		return nil, err
	}
	lock, err := lockDirectory(ctx, dir)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Endpoint: "http://s3.embedded", Region: region, Bucket: bucketName,
		AccessKey: rand.Text(), SecretKey: rand.Text(),
		lock: lock, ended: make(chan struct{}),
	}
	if err := s.start(ctx, layout, log); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// answers waits for an answer of the server, whatever it says: it listens before
// it has done with its standard output, which openDirectory takes away for a
// moment.
func (s *Server) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, s.Endpoint, nil)
	if err != nil {
		return err
	}
	resp, err := s.HTTPClient.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (s *Server) start(ctx context.Context, layout layout, log *slog.Logger) (err error) {
	s.backend, err = openDirectory(layout)
	if err != nil {
		return err
	}
	// An abstract socket leaves nothing behind when the program is killed. Its
	// name is no secret; the keys are.
	socket := "@kernelgw-s3-" + rand.Text()
	dialer := net.Dialer{}
	s.HTTPClient = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost:   64,
		MaxConnsPerHost:       256,
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		DisableCompression:    true,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}}
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	s.end = end
	listening := make(chan struct{})
	go func() {
		defer close(s.ended)
		s.err = embedgw.RunVersityGW(serving, telling{s.backend, log}, &embedgw.Config{
			RootUserAccess: s.AccessKey, RootUserSecret: s.SecretKey, Region: region,
			Ports: []string{socket}, Quiet: true, KeepAlive: true, DisableACLs: true,
			MaxConnections: 10_000, MaxRequests: 1000, MultipartMaxParts: 10_000,
			IAMService: auth.NewIAMServiceSingle(auth.Account{Access: s.AccessKey, Secret: s.SecretKey, Role: auth.RoleAdmin}),
			S3Options:  []s3api.Option{s3api.WithOnListen(func() { close(listening) })},
		})
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-listening:
		if err = s.answers(ctx); err == nil {
			return nil
		}
	case <-s.ended:
		return fmt.Errorf("cannot start the embedded S3 server: %w", s.err)
	case <-timeout.C:
		err = errors.New("it does not listen")
	case <-ctx.Done():
		err = ctx.Err()
	}
	end()
	<-s.ended
	return fmt.Errorf("cannot start the embedded S3 server: %w", err)
}

// Close ends the server after the requests that it has, at most ten seconds
// later.
func (s *Server) Close() error {
	s.once.Do(func() {
		s.HTTPClient.CloseIdleConnections()
		s.end()
		<-s.ended
		s.err = errors.Join(s.err, s.lock.Close())
	})
	return s.err
}

// layout is where what is, in a data directory.
type layout struct {
	objects  string // the newest version of each object, as a file under its key
	versions string // older versions
	names    string // see openDirectory
	incoming string // see durable.go
}

func layoutOf(dir string) layout {
	return layout{
		objects:  filepath.Join(dir, "objects"),
		versions: filepath.Join(dir, "versions"),
		names:    filepath.Join(dir, "names"),
		incoming: filepath.Join(dir, "incoming"),
	}
}

// bucket is the directory of the bucket.
func (l layout) bucket() string { return filepath.Join(l.objects, bucketName) }

func (l layout) make() error {
	for _, dir := range []string{l.objects, l.versions, l.names, l.incoming, l.bucket()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// openDirectory opens the backend. It finds objects by paths that are relative
// to the working directory of the whole program, which it changes. Instead it is
// told that buckets have absolute names, and the working directory is restored.
// Older versions are then looked for under that absolute name too: a link in
// names leads from there to versions, and is made anew at each start, so that a
// data directory may be moved.
func openDirectory(l layout) (*directory, error) {
	if err := errors.Join(os.RemoveAll(l.names), os.RemoveAll(l.incoming), os.Mkdir(l.incoming, 0o700)); err != nil {
		return nil, fmt.Errorf("cannot prepare the directory of the embedded S3 server: %w", err)
	}
	alias := filepath.Join(l.names, l.bucket())
	if err := os.MkdirAll(filepath.Dir(alias), 0o700); err != nil {
		return nil, fmt.Errorf("cannot prepare the directory of the embedded S3 server: %w", err)
	}
	if err := os.Symlink(l.versions, alias); err != nil {
		return nil, fmt.Errorf("cannot prepare the directory of the embedded S3 server: %w", err)
	}
	before, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("cannot open the embedded S3 server: %w", err)
	}
	options := posix.PosixOpts{
		VersioningDir:       l.names,
		CopyObjectThreshold: 5 << 30,
		ForceNoObjLockFile:  true, // lockDirectory excludes other programs
	}
	options.SetNewDirPerm(0o700)
	options.SetNewFilePerm(0o600)
	var files *posix.Posix
	err = quietly(func() (err error) {
		files, err = posix.New(l.objects, meta.XattrMeta{}, options)
		return err
	})
	if err := errors.Join(err, os.Chdir(before)); err != nil {
		return nil, fmt.Errorf("cannot open the embedded S3 server: %w", err)
	}
	d := &directory{files: files, bucket: l.bucket(), incoming: l.incoming, versions: l.versions}
	if err := d.enableVersioning(); err != nil {
		return nil, fmt.Errorf("cannot open the embedded S3 server: %w", err)
	}
	return d, nil
}
