package s3store

import (
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Access is what it takes to speak to an S3 server.
type Access struct {
	Endpoint  string // URL; "" is AWS, in Region
	Region    string // "" is us-east-1
	AccessKey string
	SecretKey string
	// HTTPClient reaches the server; nil is one that fits servers on a network.
	HTTPClient *http.Client
}

// NewClient returns a client for a server, without asking the server anything.
func NewClient(a Access) *s3.Client {
	o := s3.Options{
		Region:      a.Region,
		Credentials: credentials.NewStaticCredentialsProvider(a.AccessKey, a.SecretKey, ""),
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if a.Endpoint != "" {
		o.BaseEndpoint = aws.String(a.Endpoint)
		o.UsePathStyle = true // names of buckets are in no server's DNS but AWS's
	}
	if a.HTTPClient != nil {
		o.HTTPClient = a.HTTPClient
	} else {
		o.HTTPClient = newHTTPClient()
	}
	return s3.New(o)
}

// newHTTPClient bounds each phase of a request but not the whole: a large
// download takes its time.
func newHTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   64,
		MaxConnsPerHost:       256,
		DisableCompression:    true,
		ForceAttemptHTTP2:     true,
	}}
}

// attempts is how often a request is sent before the storage is unavailable:
// within about four seconds, unless it takes time to fail.
const attempts = 6

// backoff waits about 0.1, 0.2, 0.4, 0.8 and 1.6 seconds, by chance half as long:
// who saves a file waits for it.
func backoff(attempt int, _ error) (time.Duration, error) {
	longest := 100 * time.Millisecond << min(max(attempt-1, 0), 4)
	return longest/2 + rand.N(longest/2), nil
}

// tuned returns the client with the retries and checksums that the store counts
// on, however it was configured.
func tuned(client *s3.Client) *s3.Client {
	o := client.Options()
	o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = attempts
		o.Backoff = retry.BackoffDelayerFunc(backoff)
		// The standard limit makes all requests fail at once during an outage,
		// with a text that nobody understands.
		o.RateLimiter = ratelimit.None
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(retryable)}, o.Retryables...)
	})
	// The store sends a SHA-256 of its own with each write.
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	o.DisableLogOutputChecksumValidationSkipped = true
	return s3.New(o)
}
