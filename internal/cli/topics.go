package cli

import "github.com/spf13/cobra"

// topics are pages of help that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{
			Use:   "exit-codes",
			Short: "What the exit codes mean",
			Long: `castor ends with one of these codes:

    0  done
    1  failed
    2  the command line is wrong
    3  a verification found a difference or damage
   10  a store or an index does not exist
   14  a chunk is in none of the stores and seeds, or nowhere right
  130  interrupted by SIGINT (Ctrl-C)
  143  ended by SIGTERM

Any other code is to be treated as a failure. After any code but 0 no output file
has been put in place; what a file or block device holds after an update in place
that failed is completed by running the same command again.`,
		},
		{
			Use:   "locations",
			Short: "How stores, indexes, caches and seeds are named and used",
			Long: `Stores and indexes are named in the same ways:

  PATH                        a directory, by convention with the suffix .castr, or a file
  http://HOST/PATH, https://  a web server; castor serve is one that also takes uploads
  s3://BUCKET/PREFIX          Amazon's S3
  s3+https://HOST/BUCKET/PREFIX, s3+http://
                              another server that speaks S3
  sftp://[USER@]HOST[:PORT]/PATH
                              through ssh
  ssh://[USER@]HOST[:PORT]/PATH, HOST:PATH
                              casync's protocol, with casync or castor on the other side
  A|B|C                       stores that hold the same: one is asked, the next if it fails
  mcast://INTERFACE           as a store: the multicast channel of the index;
  mcast://INTERFACE/ROOT, /NAME
                              an index with its chunks: see castor help cast
  -                           an index on stdin or stdout

A path below a URL may begin with /~/ for the home directory on the other side.
Credentials are never part of these: castor help config tells where they come from.

In a store the chunk with a given ID is ID[:4]/ID.cacnk (zstd; gzip and xz are read) or
ID[:4]/ID (uncompressed), wherever it is.

  -s STORE   may be given several times. Stores are asked in order; one that lacks a
             chunk or holds it damaged is passed over. Without -s it is the store
             in $CASTOR_STORE, else default.castr beside the index.
  -c CACHE   a local store that is asked first, and filled with what was got.
  --seed X   a file or block device with similar content. Its chunks are used
             instead of fetching them. If it lies beside its index (X.caibx, or the
             same name with .caibx as extension) that saves cutting it; naming the
             index does as well. A directory stands for all files in it. The old
             version of the destination is always used.

A seed or a store is never trusted: a chunk that is not what its ID says is got
from elsewhere.`,
		},
		{
			Use:   "config",
			Short: "The configuration of stores",
			Long: `Which credentials a store wants, how many requests at once, and through which proxy is
said in /etc/castor/config.toml and ~/.config/castor/config.toml, or in the one file that
--config or $CASTOR_CONFIG names. Sections are for the stores and indexes whose URLs
fit a pattern:

  [store."https://cdn.example.com/*"]
  concurrency = 32
  timeout = "30s"
  token-file = "/run/secrets/cdn-token"

  [store."s3+https://minio.example.com/images/*"]
  region = "eu-west-1"
  access-key-env = "IMAGES_KEY"
  secret-key-file = "/run/secrets/images"

For each key the section with the longest pattern counts. Secrets are in files or in
environment variables, never in the configuration or on the command line.

  every store  concurrency, rate, timeout, retries, compression-level, uncompressed
  http, https  token-file, token-env, user, password-file, password-env, netrc, header,
               header-file, cookie-file, ca-file, client-cert, client-key, proxy, http2
  s3           region, lookup, profile, credentials-file, access-key-file, access-key-env,
               secret-key-file, secret-key-env, session-token-file, session-token-env,
               anonymous, ca-file, client-cert, client-key, proxy
  sftp, ssh    ssh-command, ssh-args, connections, remote-command

Without any, ~/.netrc, S3_ACCESS_KEY and S3_SECRET_KEY, and all that Amazon's programs
know are used, and ~/.ssh/config through ssh. desync's configuration is read, too.
castor stores STORE shows what holds for a store. docs/config.md has every detail.`,
		},
		{
			Use:   "features",
			Short: "What archives of trees can hold, for --with and --without",
			Long: `What is stored of a tree, or restored, is a set of features. --with names those that
count, in place of all; --without takes some away. Each may be given several times, with
names separated by commas. Of several forms of one thing the finest counts.

  16bit-uids    numbers of users and groups up to 65534
  32bit-uids    numbers of users and groups
  user-names    names of users and groups
  2sec-time     times of modification in steps of two seconds
  sec-time      in seconds
  usec-time     in microseconds
  nsec-time     in nanoseconds
  read-only     whether anybody may write, of all permissions
  permissions   permissions, with set-user-ID, set-group-ID and sticky bit
  acl           permissions, and access control lists (POSIX)
  symlinks      symbolic links
  device-nodes  block and character devices
  fifos         named pipes
  sockets       sockets
  xattrs        extended attributes user.* and trusted.*
  selinux       SELinux labels
  fcaps         capabilities of files
  quota-projid  numbers of projects, for quotas (ext4, XFS)
  subvolume     which directories are subvolumes (btrfs)
  subvolume-ro  and which of these are read-only

  flag-hidden, flag-system, flag-archive
                attributes of FAT
  flag-append, flag-noatime, flag-compr, flag-nocow, flag-nodump, flag-dirsync,
  flag-immutable, flag-sync, flag-nocomp, flag-projinherit
                attributes of chattr(1)

These stand for several:

  best          all in its finest form
  unix          16bit-uids, sec-time, permissions, and all types of nodes
  fat           2sec-time, read-only and fat-attrs
  fat-attrs     all attributes of FAT
  chattr        all attributes of chattr(1)
  privileged    what takes privileges to restore: owners, devices, ACLs, labels, …
  fuse          what a mounted archive can show
  all           everything; --without all leaves names, types and contents

What a file system does not have is not stored. A digest that names chunks is no feature:
see --digest. For casync the names are the same.`,
		},
		{
			Use:   "environment",
			Short: "Environment variables that castor reads",
			Long: `  CASTOR_STORE   the store to use when no -s is given, in place of default.castr
                 beside the index
  CASTOR_CONFIG  the configuration, in place of the usual files
  NETRC          file with the credentials for web servers, in place of ~/.netrc;
                 HTTPS_PROXY, HTTP_PROXY and NO_PROXY are obeyed
  S3_ACCESS_KEY, S3_SECRET_KEY, S3_REGION
                 for S3, before all that Amazon's programs know: AWS_…
  CASYNC_SSH_PATH, CASYNC_REMOTE_PATH
                 ssh here and casync on the other side, for ssh:// and sftp://
  GOMAXPROCS     the number of CPUs to use
  GOMEMLIMIT     memory, as in 4GiB, from which on castor would rather be slower
                 than use more (default: 1700MiB, which only the largest indexes
                 come near)`,
		},
	}
}
