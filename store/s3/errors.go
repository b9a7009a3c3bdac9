package s3

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/castorsync/castor/store/transfer"
)

// StatusError says that a server refused a request. It wraps fs.ErrNotExist if
// there is no such object (but not if there is no such bucket), fs.ErrPermission for
// 401, 403 and whatever is wrong with credentials, and errors.ErrUnsupported for 405
// and 501.
type StatusError struct {
	Code    int    // the HTTP status; 0 if the answer made no sense
	Reason  string // S3's word for it, such as NoSuchBucket
	Message string // what the server says, as one line
	Bucket  string
	Region  string // where the bucket is, if the server tells

	anonymous bool // the request was not signed
}

// Reasons in S3's words. A server may have others.
const (
	noSuchBucket  = "NoSuchBucket"
	noSuchKey     = "NoSuchKey"
	accessDenied  = "AccessDenied"
	unknownKey    = "InvalidAccessKeyId"
	badSignature  = "SignatureDoesNotMatch"
	clocksDiffer  = "RequestTimeTooSkewed"
	expiredToken  = "ExpiredToken" // and ExpiredTokenException
	wrongRegion   = "AuthorizationHeaderMalformed"
	movedForGood  = "PermanentRedirect"
	invalidRegion = "InvalidRegion"
)

func newStatusError(e minio.ErrorResponse, bucket string, anonymous bool) *StatusError {
	return &StatusError{
		Code:      e.StatusCode,
		Reason:    transfer.OneLine(e.Code, 60),
		Message:   transfer.OneLine(e.Message, 200),
		Bucket:    bucket,
		Region:    transfer.OneLine(e.Region, 60),
		anonymous: anonymous,
	}
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s (HTTP status %d, %s)", e.what(), e.Code, e.Reason)
}

func (e *StatusError) what() string {
	switch {
	case e.Reason == noSuchBucket:
		return fmt.Sprintf("there is no bucket %q", e.Bucket)
	case e.unknownUser():
		return "the server does not know the access key"
	case e.Reason == badSignature:
		return "the server refuses the signature: is the secret key right?"
	case e.Reason == clocksDiffer:
		return "the clocks of this machine and the server differ too much"
	case e.expired():
		return "the session token has expired"
	case e.misplaced() && e.Region != "":
		return fmt.Sprintf("the bucket is in region %q", e.Region)
	case e.denied() && e.anonymous:
		return "access denied, and no credentials were found"
	case e.denied() && e.Reason == accessDenied:
		return "access denied"
	case e.Message == "":
		return http.StatusText(e.Code)
	}
	return e.Message
}

func (e *StatusError) denied() bool {
	return e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden
}

// misplaced reports whether the request went to the wrong region, or was signed for
// that.
func (e *StatusError) misplaced() bool {
	switch e.Reason {
	case wrongRegion, movedForGood, invalidRegion, "IllegalLocationConstraintException":
		return true
	}
	return e.Code == http.StatusMovedPermanently || e.Code == http.StatusTemporaryRedirect
}

// unknownUser reports whether the access key is nobody's; versitygw has a word of its
// own for that, and status 404.
func (e *StatusError) unknownUser() bool {
	return e.Reason == unknownKey || e.Reason == "XAdminUserNotFound"
}

// expired reports whether the request was signed with what was once right.
func (e *StatusError) expired() bool { return strings.HasPrefix(e.Reason, expiredToken) }

func (e *StatusError) Unwrap() error {
	switch {
	case e.Reason == noSuchKey, e.Reason == "NotFound":
		return fs.ErrNotExist // no other 404 is about the object
	case e.denied(), e.unknownUser(), e.expired(), e.Reason == "InvalidToken":
		return fs.ErrPermission
	case e.Code == http.StatusMethodNotAllowed, e.Code == http.StatusNotImplemented:
		return errors.ErrUnsupported
	}
	return nil
}

// status returns the HTTP status that err is about, 0 if it is about something else.
func status(err error) int {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Code
	}
	return 0
}

// unknown reports whether err may say that the server does not know something of the
// request, such as a condition.
func unknown(err error) bool {
	e, ok := errors.AsType[*StatusError](err)
	return ok && (e.Code == http.StatusBadRequest || e.Code == http.StatusNotImplemented) &&
		!e.expired() && !e.misplaced() && !temporary(err)
}

// temporary reports whether what failed with err may work a little later.
func temporary(err error) bool {
	if e, ok := errors.AsType[*StatusError](err); ok {
		switch e.Reason {
		case "SlowDown", "RequestTimeout", "Throttling", "ConditionalRequestConflict", "OperationAborted":
			return true
		}
		switch e.Code {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return true
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
			return false
		}
		return e.Code >= 500 || e.Code == 0
	}
	return !transfer.Permanent(err)
}

// clean takes the URL out of an error of net/http: the error that is made of it says
// where.
func clean(err error) error {
	for {
		ue, ok := errors.AsType[*url.Error](err)
		if !ok {
			return err
		}
		err = ue.Err
	}
}
