package s3store

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"kernelgw/contents"
)

// errPrecondition: a condition of a write did not hold.
var errPrecondition = errors.New("a condition did not hold")

// What servers call a full disk, most of them with status 507.
const (
	codeFull  = "InsufficientStorage"
	codeQuota = "QuotaExceeded" // of the user whom the server runs as
)

// statusOf returns the HTTP status of the answer that an error came with, or 0.
func statusOf(err error) int {
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

// retryable adds to what the SDK sends again. AWS answers 409 when two writes of
// an object meet, and asks for another try. And an answer that breaks off says
// nothing; all that the store asks for can be asked for twice.
func retryable(err error) aws.Ternary {
	var api smithy.APIError
	var brokenOff *smithy.DeserializationError
	if errors.As(err, &brokenOff) {
		return aws.TrueTernary
	}
	if errors.As(err, &api) && (api.ErrorCode() == "ConditionalRequestConflict" || api.ErrorCode() == "OperationAborted") {
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}

// translate turns what the SDK says into what the contract says.
func translate(err error) error {
	if err == nil {
		return nil
	}
	// Not by context.DeadlineExceeded: a server that does not answer is that too.
	var canceled *smithy.CanceledError
	var waitCanceled *aws.RequestCanceledError
	if errors.As(err, &canceled) || errors.As(err, &waitCanceled) || errors.Is(err, context.Canceled) {
		return err
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "NoSuchKey", "NotFound", "NoSuchVersion", "MethodNotAllowed":
			// 405 is the answer to a read of a delete marker.
			return contents.ErrNotFound
		case "NoSuchBucket":
			return unavailable("the bucket is gone")
		case "PreconditionFailed":
			return errPrecondition
		case codeFull, codeQuota:
			return fmt.Errorf("%w: %s", contents.ErrFull, api.ErrorMessage())
		case "KeyTooLongError":
			return fmt.Errorf("%w: it is too long for the storage", contents.ErrInvalid)
		case "EntityTooLarge":
			return fmt.Errorf("%w: the storage takes no file of that size", contents.ErrTooLarge)
		}
	}
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return contents.ErrNotFound
	case http.StatusPreconditionFailed:
		return errPrecondition
	case http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %v", contents.ErrFull, err)
	}
	// The SDK's text names the request and the server's answer; nothing secret.
	return fmt.Errorf("%w: %v", contents.ErrUnavailable, err)
}

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{contents.ErrUnavailable}, args...)...)
}
