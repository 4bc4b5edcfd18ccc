if __name__ == "__main__":
    try:
        from emulator.server import main

        raise SystemExit(main())
    except KeyboardInterrupt:  # before the server listens to signals: told to leave all the same
        raise SystemExit(0) from None
