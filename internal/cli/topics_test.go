package cli

import (
	"regexp"
	"testing"

	"github.com/castorsync/castor/archive"
)

// Every feature that --with takes is explained.
func TestFeaturesTopic(t *testing.T) {
	text := ok(t, t.TempDir(), "help", "features")
	for _, name := range archive.FeatureNames() {
		if !regexp.MustCompile(`(?m)^  ([a-z-]+, )*` + name + `(, |,?$|  )`).MatchString(text) {
			t.Errorf("%s is not explained", name)
		}
	}
}
