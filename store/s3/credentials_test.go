package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// home makes AWS's files, and an environment of the process without anything else of
// AWS.
func home(t *testing.T, config, secrets string) {
	t.Helper()
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("USERPROFILE", dir)
	if err := os.Mkdir(filepath.Join(dir, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"config": config, "credentials": secrets} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, ".aws", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCredentials(t *testing.T) {
	const files = "[default]\naws_access_key_id = file\naws_secret_access_key = s\n[other]\naws_access_key_id = other\naws_secret_access_key = s\naws_session_token = t\n"
	expires := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	services := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := func(name string) {
			fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":"s","Token":"t","Expiration":%q}`, name, expires)
		}
		switch {
		case r.URL.Path == "/container":
			body("container")
		case r.URL.Path == "/latest/api/token":
			fmt.Fprint(w, "token")
		case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
			fmt.Fprint(w, "role")
		case strings.HasSuffix(r.URL.Path, "/security-credentials/role"):
			body("machine")
		case r.URL.Path == "/":
			r.ParseForm()
			fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>web-%s</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, r.Form.Get("WebIdentityToken"), expires)
		default:
			http.NotFound(w, r)
		}
	}))
	defer services.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("jwt"), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("[default]\naws_access_key_id = elsewhere\naws_secret_access_key = s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	web := []string{"AWS_WEB_IDENTITY_TOKEN_FILE", token, "AWS_ROLE_ARN", "arn:x", "AWS_ENDPOINT_URL_STS", services.URL + "/"}
	machine := []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT", services.URL}
	container := []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", services.URL + "/container"}
	s3env := []string{"S3_ACCESS_KEY", "s3", "S3_SECRET_KEY", "s"}
	awsenv := []string{"AWS_ACCESS_KEY_ID", "aws", "AWS_SECRET_ACCESS_KEY", "s", "AWS_SESSION_TOKEN", "t"}
	join := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	for what, tt := range map[string]struct {
		o       Options
		env     []string
		files   string
		aws     bool
		want    string // access key; "" if anonymous
		session string
		error   string
	}{
		"options":               {o: Options{AccessKey: "opt", SecretKey: "s", SessionToken: "x"}, env: join(s3env, awsenv), files: files, want: "opt", session: "x"},
		"anonymous":             {o: Options{NoCredentials: true, AccessKey: "opt", SecretKey: "s"}, env: s3env, files: files},
		"profile":               {o: Options{Profile: "other"}, env: join(s3env, awsenv), files: files, want: "other", session: "t"},
		"file":                  {o: Options{CredentialsFile: elsewhere}, env: join(s3env, awsenv), files: files, want: "elsewhere"},
		"S3 variables":          {env: join(s3env, awsenv, web), files: files, want: "s3"},
		"AWS variables":         {env: join(awsenv, web), files: files, want: "aws", session: "t"},
		"web identity":          {env: join(web, container), files: files, want: "web-jwt", session: "t"},
		"default profile":       {env: join(container, machine), files: files, aws: true, want: "file"},
		"AWS_PROFILE":           {env: []string{"AWS_PROFILE", "other"}, files: files, want: "other", session: "t"},
		"container":             {env: join(container, machine), aws: true, want: "container", session: "t"},
		"machine":               {env: machine, aws: true, want: "machine", session: "t"},
		"machine, not AWS":      {env: machine},
		"machine disabled":      {env: join(machine, []string{"AWS_EC2_METADATA_DISABLED", "true"}), aws: true},
		"no role":               {env: []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT", services.URL + "/none"}, aws: true},
		"nothing":               {},
		"profile without keys":  {files: "[default]\nregion = x\n"},
		"another profile alone": {files: "[x]\naws_access_key_id = a\naws_secret_access_key = b\n"},

		"one key":            {o: Options{AccessKey: "opt"}, error: "credentials of the configuration: want the access key and the secret key"},
		"one variable":       {env: s3env[:2], files: files, error: "credentials of S3_ACCESS_KEY"},
		"no such profile":    {env: []string{"AWS_PROFILE", "nope"}, files: files, error: `profile "nope"`},
		"no such file":       {o: Options{CredentialsFile: elsewhere + "x"}, error: "no such file"},
		"wanted, no keys":    {o: Options{Profile: "x"}, files: "[x]\nregion = y\n", error: "no keys"},
		"half a profile":     {files: "[default]\naws_access_key_id = file\n", error: "partial"},
		"no identity token":  {env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE", token + "x"}, files: files, error: "web identity"},
		"container far away": {env: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/x"}, error: "loopback"},
	} {
		t.Run(what, func(t *testing.T) {
			if runtime.GOOS == "windows" && what == "no such file" {
				t.Skip("other words")
			}
			home(t, "", tt.files)
			tt.o.Getenv = environ(tt.env...)
			o := tt.o.withDefaults()
			creds, anonymous, err := findCredentials(t.Context(), &o, tt.aws)
			if tt.error != "" || err != nil {
				if err == nil || tt.error == "" || !strings.Contains(err.Error(), tt.error) {
					t.Errorf("error %v, want one with %q", err, tt.error)
				}
				return
			}
			v, err := creds.GetWithContext(nil)
			if err != nil || v.AccessKeyID != tt.want || v.SessionToken != tt.session || anonymous != (tt.want == "") || v.SignerType.IsAnonymous() != anonymous {
				t.Errorf("got %q, token %q, anonymous %v, error %v, want %q, token %q", v.AccessKeyID, v.SessionToken, anonymous, err, tt.want, tt.session)
			}
		})
	}
}

// TestCredentialProcess runs a program that tells keys, once.
func TestCredentialProcess(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell")
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "keys.sh")
	text := "echo x >> " + dir + "/runs\necho '{\"Version\":1,\"AccessKeyId\":\"process\",\"SecretAccessKey\":\"s\"}'\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	home(t, "[default]\ncredential_process = sh "+script+"\n", "")
	o := (&Options{Getenv: environ()}).withDefaults()
	creds, _, err := findCredentials(t.Context(), &o, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if v, err := creds.GetWithContext(nil); err != nil || v.AccessKeyID != "process" {
			t.Errorf("got %q, %v", v.AccessKeyID, err)
		}
	}
	if runs, err := os.ReadFile(filepath.Join(dir, "runs")); err != nil || len(runs) > 4 {
		t.Errorf("the program ran %d times, error %v", len(runs)/2, err)
	}
}

// TestRenewal has credentials that expire, from a service that fails for a while.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, down := 0, false
		p := &provider{source: source{"a test", func(*credentials.CredContext) (credentials.Value, error) {
			if down {
				return credentials.Value{}, errors.New("down")
			}
			n++
			return credentials.Value{AccessKeyID: fmt.Sprint("key", n), SecretAccessKey: "s", Expiration: time.Now().Add(10 * time.Minute)}, nil
		}}}
		creds := credentials.New(p)
		for _, tt := range []struct {
			wait time.Duration
			down bool
			want string
		}{
			{0, false, "key1"},
			{7 * time.Minute, false, "key1"},
			{2 * time.Minute, false, "key2"},
			{9 * time.Minute, true, "key2"}, // old, but good
			{30 * time.Second, false, "key3"},
			{11 * time.Minute, true, ""},
			{time.Second, false, "key4"},
		} {
			time.Sleep(tt.wait)
			down = tt.down
			v, err := creds.GetWithContext(nil)
			if v.AccessKeyID != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("after %v more, down %v: %q, %v, want %q", tt.wait, tt.down, v.AccessKeyID, err, tt.want)
			}
		}
	})
}

// TestOpenCancelled ends while a service does not answer.
func TestOpenCancelled(t *testing.T) {
	home(t, "", "")
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	defer close(release)
	ctx, cancel := context.WithCancelCause(t.Context())
	want := errors.New("enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(want) })
	_, err := Open(ctx, "s3+http://host/bucket", &Options{Getenv: environ("AWS_CONTAINER_CREDENTIALS_FULL_URI", s.URL)})
	if !errors.Is(err, want) {
		t.Errorf("error %v, want the cause", err)
	}
}
