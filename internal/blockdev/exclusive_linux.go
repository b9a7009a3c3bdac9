package blockdev

import "os"

const exclusive = os.O_EXCL
