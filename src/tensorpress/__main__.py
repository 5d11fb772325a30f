from tensorpress.cli import main

main()
